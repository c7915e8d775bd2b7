"""Orders units by importance, so that a narrower model has the first units of a wider one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from compress.importance.units import Floats, Importance
from compress.model.parts.axes import EMBED, Axis, parameter_axes, table_axes
from compress.model.slicing import KeptBlock, KeptUnits, keep_all
from compress.model.vit import SlicedViT, build
from runtime import ShapePlan


@dataclass(frozen=True)
class UnitOrder:
    """Units as indices into the model, the most important first; equal units stay in order.

    Attributes:
        embed: dimensions of the residual stream.
        heads: heads of each block.
        mlp: hidden units of the MLP of each block.
    """

    embed: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    mlp: tuple[tuple[int, ...], ...]


def order_of(importance: Importance) -> UnitOrder:
    """Ranks units by importance, a head by the sum of its dimensions."""
    return UnitOrder(
        _ranked(importance.embed),
        tuple(_ranked(block.qk.sum(1) + block.v.sum(1)) for block in importance.blocks),
        tuple(_ranked(block.mlp) for block in importance.blocks),
    )


def kept_first(plan: ShapePlan, order: UnitOrder, smaller: ShapePlan) -> KeptUnits:
    """Returns the units of ``plan`` that are kept in ``smaller``: the first of each kind in the first blocks.

    Args:
        plan: plan of the model to prune.
        order: order of its units.
        smaller: narrower in num_heads, mlp_dim or embed_dim, or with fewer blocks.
    """
    blocks = []
    for keep, block, heads, mlp in zip(keep_all(plan).blocks, smaller.blocks, order.heads, order.mlp, strict=False):
        stay = tuple(sorted(heads[: block.num_heads]))
        qk, v = (tuple(dims[head] for head in stay) for dims in (keep.qk, keep.v))
        blocks.append(KeptBlock(stay, qk, v, tuple(sorted(mlp[: block.mlp_dim]))))
    return KeptUnits(tuple(sorted(order.embed[: smaller.embed_dim])), tuple(blocks))


def ordered(model: SlicedViT, order: UnitOrder) -> SlicedViT:
    """Returns a copy of ``model`` with its units in this order, which computes the same."""
    index = {EMBED: torch.tensor(order.embed)}
    for i, block in enumerate(model.plan.blocks):
        index[Axis("mlp", i)], index[Axis("head", i)] = torch.tensor(order.mlp[i]), torch.tensor(order.heads[i])
        for kind, width in (("qk", block.qk_dim), ("v", block.v_dim)):
            flat = [head * width + dim for head in order.heads[i] for dim in range(width)]
            index[Axis(kind, i)] = torch.tensor(flat)
        units = index[Axis("qk", i)]
        index[Axis("pair", i)] = (units if model.plan.rope == "per_head" else torch.arange(block.qk_dim))[::2] // 2
    weights = model.state_dict()
    for name, axes in (parameter_axes(model.plan) | table_axes(model.plan)).items():
        for dim, axis in enumerate(axes):
            if axis is not None:
                weights[name] = weights[name].index_select(dim, index[axis])
    return build(model.plan, weights)


def _ranked(scores: Floats) -> tuple[int, ...]:
    return tuple(np.argsort(-scores, kind="stable").tolist())
