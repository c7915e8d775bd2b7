"""What a model costs: parameters and multiply-accumulates, from the widths of its plan, or counted without a plan."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import BlockPlan, OutputKind, ShapePlan
from .plan_parts import stem_sizes


@dataclass(frozen=True)
class CountedModel:
    """A classifier of timm that has no plan, with its counted costs.

    Attributes:
        architecture: its name in timm.
        img_size: height and width of its image, pixels.
        in_chans: channels of its image.
        num_classes: number of its logits.
        macs: multiply-accumulates of one image, counted on the model as it ran.
        params: number of its parameters.
        converter: name and version of the library that wrote the file; empty for the model itself.
    """

    architecture: str
    img_size: tuple[int, int]
    in_chans: int
    num_classes: int
    macs: int
    params: int
    converter: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether it answers with a vector; it answers with classes."""
        return False

    @property
    def output_kind(self) -> OutputKind:
        """What its files answer with."""
        return "classes"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one image."""
        return (self.num_classes,)


def params(plan: ShapePlan | CountedModel) -> int:
    """Returns the number of parameters of the model that ``plan`` describes."""
    if isinstance(plan, CountedModel):
        return plan.params
    c = plan.embed_dim
    patch_h, patch_w = plan.patch_size
    first = plan.token_dim
    total = first * plan.map_chans * patch_h * patch_w + (first if plan.patch_bias else 0) + _stem_params(plan)
    placed = plan.placed_dim
    total += placed * (int(plan.class_token) + int(plan.dist_token) + plan.reg_tokens)
    total += placed * {"none": 0, "patches": plan.num_patches, "all": plan.num_tokens}[plan.pos_embed]
    if plan.norm_type == "layer":
        total += 2 * c * len(plan.norm_names)
    elif plan.pre_dim:
        total += (plan.pre_dim + 1) * c
    total += sum(_block_params(plan, block) for block in plan.blocks)
    total += (plan.text_dim + 1) * plan.num_classes if plan.text_dim else 0
    return total + _heads(plan) * (plan.head_dim + 1) * plan.head_outputs + _pool_params(plan)


def _heads(plan: ShapePlan) -> int:
    """Returns the number of Linears that give the outputs: one or two, and one for each inner block of a grid."""
    return (2 if plan.two_heads else 1) + len(plan.grid_blocks)


def _stem_convs(plan: ShapePlan) -> list[tuple[int, int]]:
    """Returns for each convolution of the stem its weights and the places that it is computed at."""
    sizes, convs = stem_sizes(plan.stem, plan.in_chans, plan.img_size), []
    for op, (chans, rows, columns) in zip(plan.stem, sizes, strict=True):
        if op.kind == "conv":
            read = sizes[op.sources[0]][0] if op.sources[0] >= 0 else plan.in_chans
            convs.append((chans * (read // op.groups) * op.kernel[0] * op.kernel[1], rows * columns))
    return convs


def _stem_params(plan: ShapePlan) -> int:
    """Returns the parameters of the stem: each convolution has a bias, each norm a weight and a bias."""
    shifts = sum(op.out_chans * {"conv": 1, "group_norm": 2, "layer_norm": 2}.get(op.kind, 0) for op in plan.stem)
    return shifts + sum(weights for weights, _ in _stem_convs(plan))


def _stem_macs(plan: ShapePlan) -> int:
    return sum(weights * places for weights, places in _stem_convs(plan))


def _pool_params(plan: ShapePlan) -> int:
    """Returns the parameters of the attention pooling: a query, key, value, projection, norm and MLP."""
    if plan.attn_pool is None:
        return 0
    d, hidden = plan.attn_pool.dim, plan.attn_pool.mlp_dim
    return d + 2 * (plan.embed_dim + 1) * d + (d + 1) * d + 2 * d + (d + 1) * hidden + (hidden + 1) * d


def _pool_macs(plan: ShapePlan) -> int:
    if plan.attn_pool is None:
        return 0
    d, hidden = plan.attn_pool.dim, plan.attn_pool.mlp_dim
    tokens = plan.num_tokens if plan.attn_pool.prefix else plan.num_patches
    return 2 * tokens * plan.embed_dim * d + 2 * tokens * d + d * d + 2 * d * hidden


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


def macs(plan: ShapePlan | CountedModel) -> int:
    """Returns the multiply-accumulates of one forward pass on one image.

    Counts what PyTorch's own FLOP counter counts (convolutions and matrix products; FLOPs = 2 x MACs),
    so norms, softmax and activations are not in it.
    """
    if isinstance(plan, CountedModel):
        return plan.macs
    c, tokens = plan.embed_dim, plan.num_tokens
    patch_h, patch_w = plan.patch_size
    total = plan.num_patches * plan.token_dim * plan.map_chans * patch_h * patch_w
    total += (plan.num_patches if plan.patch_norm else tokens) * plan.pre_dim * c
    total += _stem_macs(plan)
    for block in plan.blocks:
        qk, v = block.num_heads * block.qk_dim, block.num_heads * block.v_dim
        total += tokens * c * (2 * qk + v) + tokens * v * c
        total += tokens * c * (_read_mlp(plan, block) + block.mlp_dim)
        total += tokens * tokens * (qk + v)
    rows = plan.num_patches if plan.output == "grid" else 1
    total += plan.text_dim * plan.num_classes
    return total + rows * _heads(plan) * plan.head_dim * plan.head_outputs + _pool_macs(plan)


def flops(plan: ShapePlan) -> int:
    """Returns floating-point operations of one forward pass on one image: 2 x MACs."""
    return 2 * macs(plan)
