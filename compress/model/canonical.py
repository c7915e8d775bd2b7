"""The canonical form of a model: norms and scales without weights of their own, and a residual stream of mean zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from runtime import ShapePlan

from .parts.norms import EARLY_NORMS, last_readers, mlp_inputs, norm_readers, tap_readers
from .vit import SlicedViT, build

Weights = dict[str, torch.Tensor]


def canonical(model: SlicedViT, dtype: torch.dtype | None = None) -> SlicedViT:
    """Returns a model that computes the same function with RMSNorms, and whose residual stream can be rotated.

    LayerScale goes into the Linears before it, the weight and bias of every norm into the Linears that read it, the
    value's bias through the projection, and the key's bias is dropped, since a softmax cannot see it. Everything that
    writes into the residual stream is centred, so that LayerNorm is RMSNorm; a norm after the embedding becomes an
    RMSNorm and a Linear. Without a last norm the head would see what centring takes away, and blocks with norms behind
    their branches see it, too: such models keep their LayerNorms, and the rest is folded.

    Args:
        model: the model; it is not changed.
        dtype: type of the new weights; None takes that of the model. The folding is computed in float64.

    Ref: Ashkboos et al. 2024 (SliceGPT, arXiv 2401.15024), section 3.
    """
    plan = model.plan
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    w, plan = _without_layer_scale(w, plan)
    w, plan = _without_hidden_biases(w, plan)
    if folds_norms(plan):
        w, plan = _without_norm_weights(w, plan)
        w, plan = _with_rms(w, plan)
    return build(plan, w, dtype or model.head.weight.dtype)


def folds_norms(plan: ShapePlan) -> bool:
    """Returns whether the canonical form of a model turns its LayerNorms into RMSNorms.

    Where the classifier or the blocks read the stream as it is, they would see what centring takes away.
    """
    return plan.norm_type == "layer" and plan.norm != "none" and not keeps_norms(plan)


def keeps_norms(plan: ShapePlan) -> bool:
    """Returns whether the norms of blocks keep their weights, since no Linear alone reads what they write."""
    return plan.block_kind == "post" or plan.double_norm


def plain_norms(model: SlicedViT, dtype: torch.dtype | None = None) -> SlicedViT:
    """Returns a model that computes the same function with LayerNorms of weight 1 and bias 0 in its blocks.

    LayerScale and biases are folded as in ``canonical``. The stream is not centred, so no last norm is needed. A norm
    after the embedding keeps its weight, since no Linear reads it, and so do norms behind the branches of blocks.

    Args:
        model: a model with LayerNorms; it is not changed.
        dtype: type of the new weights; None takes that of the model. The folding is computed in float64.
    """
    plan = model.plan
    assert plan.norm_type == "layer", "RMSNorms have no weights"
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    w, plan = _without_layer_scale(w, plan)
    w, plan = _without_hidden_biases(w, plan)
    if keeps_norms(plan):
        return build(plan, w, dtype or model.head.weight.dtype)
    kept = {name: value for name, value in w.items() if name.startswith(EARLY_NORMS)}
    bare = replace(plan, norm_pre=False, patch_norm=False)
    w, folded = _without_norm_weights({name: w[name] for name in w.keys() - kept.keys()}, bare)
    ones = torch.ones(plan.embed_dim, dtype=torch.float64)
    for name in folded.norm_names:
        w[f"{name}.weight"], w[f"{name}.bias"] = ones, 0 * ones
    return build(
        replace(plan, qkv_bias=folded.qkv_bias, proj_bias=folded.proj_bias), w | kept, dtype or model.head.weight.dtype
    )


def _without_layer_scale(weights: Weights, plan: ShapePlan) -> tuple[Weights, ShapePlan]:
    w = dict(weights)
    for i in range(len(plan.blocks)) if plan.layer_scale else ():
        for gamma, name in (("gamma1", "attn.proj"), ("gamma2", "mlp.fc2")):
            scale = w.pop(f"blocks.{i}.{gamma}")
            w[f"blocks.{i}.{name}.weight"] = w[f"blocks.{i}.{name}.weight"] * scale[:, None]
            if f"blocks.{i}.{name}.bias" in w:
                w[f"blocks.{i}.{name}.bias"] = w[f"blocks.{i}.{name}.bias"] * scale
    return w, replace(plan, layer_scale=False)


def _without_hidden_biases(weights: Weights, plan: ShapePlan) -> tuple[Weights, ShapePlan]:
    """Moves every value's bias into the projection's, and sets the key's to zero, where nothing stands between."""
    w = dict(weights)
    if plan.attn_pool:
        pool = "attn_pool"
        w[f"{pool}.proj.bias"] = w[f"{pool}.proj.bias"] + w[f"{pool}.proj.weight"] @ w[f"{pool}.v.bias"]
        w[f"{pool}.v.bias"], w[f"{pool}.k.bias"] = (torch.zeros_like(w[f"{pool}.{part}.bias"]) for part in "vk")
    for i in range(len(plan.blocks)):
        at = f"blocks.{i}.attn"
        w.setdefault(f"{at}.proj.bias", w[f"{at}.proj.weight"].new_zeros(plan.embed_dim))
        if not plan.qkv_bias:
            continue
        if not plan.attn_norm:
            moved = w[f"{at}.proj.weight"] @ w[f"{at}.v.bias"]
            w[f"{at}.proj.bias"] = w[f"{at}.proj.bias"] + moved
            w[f"{at}.v.bias"] = torch.zeros_like(w[f"{at}.v.bias"])
        # a norm of the keys or a rotation of them makes their bias differ from token to token
        if plan.mixes_qk:
            w[f"{at}.k.bias"] = torch.zeros_like(w[f"{at}.k.bias"])
    return w, replace(plan, proj_bias=True)


def _without_norm_weights(weights: Weights, plan: ShapePlan) -> tuple[Weights, ShapePlan]:
    """Moves weight and bias of every norm into the Linears that read it; a norm before the stream gets a Linear."""
    w, c = dict(weights), plan.embed_dim
    for early in EARLY_NORMS:
        if f"{early}.weight" in w:
            w["pre.weight"], w["pre.bias"] = torch.diag(w.pop(f"{early}.weight")), w.pop(f"{early}.bias")
    for norm, names in norm_readers(plan).items():
        scale, shift = w.pop(f"{norm}.weight"), w.pop(f"{norm}.bias")
        for name in names:
            w[f"{name}.bias"] = w.get(f"{name}.bias", 0) + w[f"{name}.weight"] @ shift
            w[f"{name}.weight"] = w[f"{name}.weight"] * scale
    # the biases that came with the norms of keys and values go on as the others did
    folded = replace(plan, qkv_bias=True)
    w, folded = _without_hidden_biases(w, folded)
    return w, replace(folded, norm_type="rms", pre_dim=c if plan.norm_pre or plan.patch_norm else 0)


def _with_rms(weights: Weights, plan: ShapePlan) -> tuple[Weights, ShapePlan]:
    """Subtracts the mean from everything that writes into the stream, or into the tokens before an early norm."""
    w = dict(weights)
    for name, axis in (stream_writers(plan) | patch_weights(plan) | placed_weights(plan)).items():
        w[name] = w[name] - w[name].mean(axis, keepdim=True)
    return w, plan


def patch_weights(plan: ShapePlan) -> dict[str, int]:
    """Returns the weights that make patches, and the dimension of each that runs over their channels."""
    return {"patch_embed.weight": 0} | ({"patch_embed.bias": 0} if plan.patch_bias else {})


def placed_weights(plan: ShapePlan) -> dict[str, int]:
    """Returns the tokens and positions, and the dimension of each that runs over a token's channels."""
    tokens = (plan.class_token, "cls_token"), (plan.dist_token, "dist_token"), (plan.reg_tokens > 0, "reg_token")
    return {name: -1 for there, name in (*tokens, (plan.pos_embed != "none", "pos_embed")) if there}


def stream_writers(plan: ShapePlan) -> dict[str, int]:
    """Returns the weights that write into the residual stream, and the dimension of each that runs over it."""
    names = {"pre.weight": 0, "pre.bias": 0} if plan.pre_dim else patch_weights(plan)
    names |= {} if plan.pre_dim and not plan.patch_norm else placed_weights(plan)
    for i in range(len(plan.blocks)):
        for name in ("attn.proj", "mlp.fc2"):
            names[f"blocks.{i}.{name}.weight"] = 0
            if name == "mlp.fc2" or plan.proj_bias:
                names[f"blocks.{i}.{name}.bias"] = 0
    return names


def stream_readers(plan: ShapePlan) -> tuple[str, ...]:
    """Returns the weights that read the residual stream, most through a norm; their dimension 1 runs over it."""
    parts = ("attn.q", "attn.k", "attn.v", *(f"mlp.{name}" for name in mlp_inputs(plan)))
    inner = (f"blocks.{i}.{n}.weight" for i in range(len(plan.blocks)) for n in parts)
    return (*inner, *(f"{name}.weight" for name in (*last_readers(plan), *tap_readers(plan))))


def rotate_stream(plan: ShapePlan, weights: Mapping[str, torch.Tensor], basis: torch.Tensor) -> Weights:
    """Returns the weights of the same function in other coordinates of the residual stream.

    Args:
        plan: plan of the model, with RMSNorms, or with LayerNorms of weight 1 and bias 0.
        weights: its weights.
        basis: ``(C, C)``, orthogonal; its columns are the new axes. With LayerNorms it must map the vector of ones to
            itself, so that the mean over the channels stays what it is.
    """
    assert plan.norm_type == "rms" or torch.allclose(basis.sum(0), basis.new_ones(len(basis))), "the mean must stay"
    w = dict(weights)
    for name, axis in stream_writers(plan).items():
        w[name] = torch.tensordot(w[name], basis, dims=([axis], [0])).movedim(-1, axis)
    for name in stream_readers(plan):
        w[name] = w[name] @ basis
    return w
