"""Which prunable dimension of the model each dimension of a parameter belongs to."""

from __future__ import annotations

from typing import NamedTuple

from runtime import ShapePlan

from .norms import mlp_inputs, tap_readers


class Axis(NamedTuple):
    """One prunable dimension of the model: a kind, and the block it belongs to (-1: the whole model).

    Kinds: ``embed`` (the residual stream), ``mlp`` (hidden units), ``qk`` and ``v`` (all heads' widths of a
    block, head after head), and in ``table_axes`` ``pair`` (the rotated pairs of a block's table) and ``head`` (whole
    heads).
    """

    kind: str
    block: int = -1


EMBED = Axis("embed")


def parameter_axes(plan: ShapePlan) -> dict[str, tuple[Axis | None, ...]]:
    """Returns for every parameter of ``SlicedViT(plan)`` the prunable axis of each of its dimensions.

    Slicing selects by this table, and importance is summed over it. ``None`` marks a dimension that pruning never
    changes.
    """
    first = None if plan.pre_dim else EMBED
    placed = EMBED if plan.patch_norm else first
    axes: dict[str, tuple[Axis | None, ...]] = {"patch_embed.weight": (first, None, None, None)}
    if plan.patch_bias:
        axes["patch_embed.bias"] = (first,)
    for name, present in (
        ("cls_token", plan.class_token),
        ("dist_token", plan.dist_token),
        ("reg_token", plan.reg_tokens > 0),
        ("pos_embed", plan.pos_embed != "none"),
    ):
        if present:
            axes[name] = (None, None, placed)
    if plan.pre_dim:
        axes["pre.weight"], axes["pre.bias"] = (EMBED, None), (EMBED,)
    for name in plan.norm_names if plan.norm_type == "layer" else ():
        axes[f"{name}.weight"] = axes[f"{name}.bias"] = (EMBED,)
    for i in range(len(plan.blocks)):
        axes |= _block_axes(plan, i)
    for head in ("head", "head_dist") if plan.two_heads else ("head",):
        axes[f"{head}.weight"], axes[f"{head}.bias"] = (None, None if plan.attn_pool else EMBED), (None,)
    for tap in tap_readers(plan):
        axes[f"{tap}.weight"], axes[f"{tap}.bias"] = (None, EMBED), (None,)
    return axes | _pool_axes(plan) | _stem_axes(plan)


def _stem_axes(plan: ShapePlan) -> dict[str, tuple[Axis | None, ...]]:
    """Returns the axes of a stem, which is kept whole."""
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for number, op in enumerate(plan.stem):
        if op.kind in ("conv", "group_norm", "layer_norm"):
            axes[f"stem.{number}.weight"] = (None,) * (4 if op.kind == "conv" else 1)
            axes[f"stem.{number}.bias"] = (None,)
    return axes


def _pool_axes(plan: ShapePlan) -> dict[str, tuple[Axis | None, ...]]:
    """Returns the axes of an attention pooling, which has none of its own: it reads the stream."""
    axes: dict[str, tuple[Axis | None, ...]] = {"q": (None,), "norm.weight": (None,), "norm.bias": (None,)}
    for part in ("k", "v", "proj", "fc1", "fc2"):
        axes[f"{part}.weight"] = (None, EMBED if part in "kv" else None)
        axes[f"{part}.bias"] = (None,)
    return {f"attn_pool.{name}": value for name, value in axes.items()} if plan.attn_pool else {}


def _block_axes(plan: ShapePlan, index: int) -> dict[str, tuple[Axis | None, ...]]:
    qk, v, mlp = Axis("qk", index), Axis("v", index), Axis("mlp", index)
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for name, out in (("q", qk), ("k", qk), ("v", v)):
        axes[f"attn.{name}.weight"] = (out, EMBED)
        if plan.qkv_bias:
            axes[f"attn.{name}.bias"] = (out,)
    axes["attn.proj.weight"] = (EMBED, v)
    if plan.proj_bias:
        axes["attn.proj.bias"] = (EMBED,)
    for name in mlp_inputs(plan):
        axes[f"mlp.{name}.weight"], axes[f"mlp.{name}.bias"] = (mlp, EMBED), (mlp,)
    axes["mlp.fc2.weight"], axes["mlp.fc2.bias"] = (EMBED, mlp), (EMBED,)
    for name, axis, present in (("attn.norm", v, plan.attn_norm), ("mlp.norm", mlp, plan.mlp_norm)):
        if present:
            axes[f"{name}.weight"] = axes[f"{name}.bias"] = (axis,)
    for part in ("q_norm", "k_norm") if plan.qk_norm != "none" else ():
        axes[f"attn.{part}.weight"] = (qk,)
        if plan.qk_norm == "layer":
            axes[f"attn.{part}.bias"] = (qk,)
    if plan.layer_scale:
        axes["gamma1"] = axes["gamma2"] = (EMBED,)
    return {f"blocks.{index}.{name}": value for name, value in axes.items()}


def table_axes(plan: ShapePlan) -> dict[str, tuple[Axis | None, ...]]:
    """Returns for every table of constants of ``SlicedViT(plan)`` the prunable axis of each of its dimensions."""
    every, axes = range(len(plan.blocks)), dict[str, tuple[Axis | None, ...]]()
    if plan.rope != "none":
        axes |= {f"blocks.{i}.attn.rope.{part}": (None, Axis("pair", i)) for i in every for part in ("cos", "sin")}
    if plan.position_bias:
        axes |= {f"blocks.{i}.attn.position_bias": (Axis("head", i), None, None) for i in every}
    if plan.text_dim:
        axes |= {"text.weight": (None, None), "text.bias": (None,)}
    return axes
