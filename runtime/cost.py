"""What a plan costs: parameters and multiply-accumulates, exactly, from its widths alone."""

from __future__ import annotations

from .plan import BlockPlan, ShapePlan


def params(plan: ShapePlan) -> int:
    """Returns the number of parameters of the model that ``plan`` describes."""
    c = plan.embed_dim
    patch_h, patch_w = plan.patch_size
    first = plan.token_dim
    total = first * plan.in_chans * patch_h * patch_w + (first if plan.patch_bias else 0)
    placed = plan.placed_dim
    total += placed * (int(plan.class_token) + int(plan.dist_token) + plan.reg_tokens)
    total += placed * {"none": 0, "patches": plan.num_patches, "all": plan.num_tokens}[plan.pos_embed]
    if plan.norm_type == "layer":
        total += 2 * c * len(plan.norm_names)
    elif plan.pre_dim:
        total += (plan.pre_dim + 1) * c
    total += sum(_block_params(plan, block) for block in plan.blocks)
    heads = 2 if plan.two_heads else 1
    return total + heads * (c + 1) * plan.num_classes


def _block_params(plan: ShapePlan, block: BlockPlan) -> int:
    c, qk, v = plan.embed_dim, block.num_heads * block.qk_dim, block.num_heads * block.v_dim
    read = _read_mlp(plan, block)
    weights = c * (2 * qk + v) + v * c + c * (read + block.mlp_dim)
    biases = read + c + (2 * qk + v if plan.qkv_bias else 0) + (c if plan.proj_bias else 0)
    norms = (2 * v if plan.attn_norm else 0) + (2 * block.mlp_dim if plan.mlp_norm else 0)
    norms += {"none": 0, "rms": 2 * qk, "layer": 4 * qk}[plan.qk_norm]
    return weights + biases + norms + (2 * c if plan.layer_scale else 0)


def _read_mlp(plan: ShapePlan, block: BlockPlan) -> int:
    """Returns the outputs of the Linears that read the stream in an MLP."""
    return block.mlp_dim * (2 if plan.gated_mlp else 1)


def macs(plan: ShapePlan) -> int:
    """Returns the multiply-accumulates of one forward pass on one image.

    Counts what PyTorch's own FLOP counter counts (convolutions and matrix products; FLOPs = 2 x MACs),
    so norms, softmax and activations are not in it.
    """
    c, tokens = plan.embed_dim, plan.num_tokens
    patch_h, patch_w = plan.patch_size
    total = plan.num_patches * plan.token_dim * plan.in_chans * patch_h * patch_w
    total += (plan.num_patches if plan.patch_norm else tokens) * plan.pre_dim * c
    for block in plan.blocks:
        qk, v = block.num_heads * block.qk_dim, block.num_heads * block.v_dim
        total += tokens * c * (2 * qk + v) + tokens * v * c
        total += tokens * c * (_read_mlp(plan, block) + block.mlp_dim)
        total += tokens * tokens * (qk + v)
    heads = 2 if plan.two_heads else 1
    return total + heads * c * plan.num_classes


def flops(plan: ShapePlan) -> int:
    """Returns floating-point operations of one forward pass on one image: 2 x MACs."""
    return 2 * macs(plan)
