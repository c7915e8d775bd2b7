"""The units of a model that are kept, and the physically smaller model made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from runtime import BlockPlan, PlanError, ShapePlan

from .parts.axes import EMBED, Axis, parameter_axes, table_axes
from .vit import SlicedViT, build


@dataclass(frozen=True)
class KeptBlock:
    """The units of one block that are kept, as sorted indices into the whole model.

    Attributes:
        heads: attention heads.
        qk: query and key dimensions of each kept head; every head keeps the same number. Under rotary positions they
            are whole pairs, and the same in every head where one table serves all.
        v: value dimensions of each kept head; every head keeps the same number.
        mlp: hidden units of the MLP.
    """

    heads: tuple[int, ...]
    qk: tuple[tuple[int, ...], ...]
    v: tuple[tuple[int, ...], ...]
    mlp: tuple[int, ...]


@dataclass(frozen=True)
class KeptUnits:
    """The units of a model that are kept.

    Attributes:
        embed: dimensions of the residual stream.
        blocks: units of the kept blocks; later blocks of the model are removed.
    """

    embed: tuple[int, ...]
    blocks: tuple[KeptBlock, ...]


def keep_all(plan: ShapePlan) -> KeptUnits:
    """Returns the indices that keep every unit of ``plan``."""
    return KeptUnits(
        tuple(range(plan.embed_dim)),
        tuple(
            KeptBlock(
                tuple(range(b.num_heads)),
                (tuple(range(b.qk_dim)),) * b.num_heads,
                (tuple(range(b.v_dim)),) * b.num_heads,
                tuple(range(b.mlp_dim)),
            )
            for b in plan.blocks
        ),
    )


def plan_of(plan: ShapePlan, kept: KeptUnits) -> ShapePlan:
    """Returns the plan of the model that keeps the units ``kept`` of a model of ``plan``.

    Raises:
        PlanError: indices are out of range, repeated or unsorted, heads have unequal widths, or a width is not a
            positive multiple of 8.
    """
    if not 1 <= len(kept.blocks) <= len(plan.blocks):
        most = f"1 to {len(plan.blocks)} blocks"
        raise PlanError("The kept units are of another model", expected=most, got=len(kept.blocks))
    _check_indices("embed", kept.embed, plan.embed_dim)
    for i, (block, keep) in enumerate(zip(plan.blocks, kept.blocks, strict=False)):
        _check_indices(f"heads of block {i}", keep.heads, block.num_heads)
        _check_indices(f"MLP units of block {i}", keep.mlp, block.mlp_dim)
        _check_heads(f"query-key dims of block {i}", keep.qk, len(keep.heads), block.qk_dim)
        _check_heads(f"value dims of block {i}", keep.v, len(keep.heads), block.v_dim)
        if plan.rope != "none":
            _check_pairs(plan, i, keep)
    return widths_of(plan, kept)


def widths_of(plan: ShapePlan, kept: KeptUnits) -> ShapePlan:
    """Returns the same plan as ``plan_of``, for indices known to be valid."""
    blocks = tuple(BlockPlan(len(k.heads), len(k.qk[0]), len(k.v[0]), len(k.mlp)) for k in kept.blocks)
    return narrowed(plan, len(kept.embed), blocks)


def narrowed(plan: ShapePlan, embed_dim: int, blocks: Sequence[BlockPlan]) -> ShapePlan:
    """Returns the plan of a model of ``plan`` that was cut to other widths, and to its first blocks.

    Args:
        plan: plan of the whole model.
        embed_dim: width of the stream, at most that of the whole model.
        blocks: widths of the blocks that stay.
    """
    smaller = _first_blocks(plan, len(blocks))
    # zeros in place of the removed dimensions leave an RMSNorm's divisor as it is
    dim = (plan.norm_dim or plan.embed_dim) if plan.norm_type == "rms" and embed_dim < plan.embed_dim else None
    dim = plan.norm_dim if dim is None else dim
    return replace(smaller, embed_dim=embed_dim, blocks=tuple(blocks), norm_dim=dim)


def same_widths(one: ShapePlan, other: ShapePlan) -> bool:
    """Returns whether two plans differ at most in the epsilons of their norms and in what RMSNorms divide by."""
    return replace(one, norm_eps=1.0, norm_dim=0) == replace(other, norm_eps=1.0, norm_dim=0)


def slice_vit(model: SlicedViT, kept: KeptUnits) -> SlicedViT:
    """Returns a new, smaller model that computes what ``model`` computes without the removed units.

    The result is exact: removed units are left out of every reduction, including LayerNorm's mean and variance. An
    RMSNorm counts removed dimensions of the stream as zeros.

    Raises:
        PlanError: ``kept`` does not fit the model.
    """
    plan = plan_of(model.plan, kept)
    index = axis_indices(model.plan, kept)
    weights = model.state_dict()
    sliced = {}
    whole = _first_blocks(model.plan, len(kept.blocks))
    for name, axes in (parameter_axes(whole) | table_axes(whole)).items():
        value = weights[name]
        for dim, axis in enumerate(axes):
            if axis is not None:
                value = value.index_select(dim, index[axis])
        sliced[name] = value
    return build(plan, sliced, model.head.weight.dtype)


def axis_indices(plan: ShapePlan, kept: KeptUnits) -> dict[Axis, torch.Tensor]:
    """Returns the kept positions of every prunable axis of ``plan``, as int64 tensors."""
    index = {EMBED: torch.tensor(kept.embed)}
    for i, (block, keep) in enumerate(zip(plan.blocks, kept.blocks, strict=False)):
        index[Axis("mlp", i)], index[Axis("head", i)] = torch.tensor(keep.mlp), torch.tensor(keep.heads)
        for kind, dims, width in (("qk", keep.qk, block.qk_dim), ("v", keep.v, block.v_dim)):
            flat = [head * width + dim for head, own in zip(keep.heads, dims, strict=True) for dim in own]
            index[Axis(kind, i)] = torch.tensor(flat)
        if plan.rope != "none":
            units = index[Axis("qk", i)][: len(keep.qk[0]) if plan.rope == "shared" else None]
            table = units % block.qk_dim if plan.rope == "shared" else units
            index[Axis("pair", i)] = table[::2] // 2
    return index


def compose(first: KeptUnits, then: KeptUnits) -> KeptUnits:
    """Returns the units kept after slicing by ``first`` and then by ``then``, as indices into the first model."""
    blocks = []
    for a, b in zip(first.blocks, then.blocks, strict=False):
        blocks.append(
            KeptBlock(
                tuple(a.heads[h] for h in b.heads),
                tuple(tuple(a.qk[h][d] for d in dims) for h, dims in zip(b.heads, b.qk, strict=True)),
                tuple(tuple(a.v[h][d] for d in dims) for h, dims in zip(b.heads, b.v, strict=True)),
                tuple(a.mlp[u] for u in b.mlp),
            )
        )
    return KeptUnits(tuple(first.embed[d] for d in then.embed), tuple(blocks))


def _first_blocks(plan: ShapePlan, count: int) -> ShapePlan:
    if count == len(plan.blocks):
        return plan
    smaller = replace(plan, blocks=plan.blocks[:count], norm_eps=1.0)
    one = isinstance(plan.norm_eps, float)
    return replace(smaller, norm_eps=plan.norm_eps if one else tuple(map(plan.eps_of, smaller.norm_names)))


def _check_indices(what: str, indices: Sequence[int], size: int) -> None:
    if any(b <= a for a, b in pairwise(indices)):
        raise PlanError(f"The kept {what} must be sorted and distinct", got=list(indices)[:12])
    if not indices or indices[0] < 0 or indices[-1] >= size:
        expected = f"some of 0 to {size - 1}"
        raise PlanError(f"The kept {what} are out of range", expected=expected, got=list(indices)[:12])


def _check_pairs(plan: ShapePlan, index: int, keep: KeptBlock) -> None:
    whole = all(b == a + 1 and a % 2 == 0 for dims in keep.qk for a, b in zip(dims[0::2], dims[1::2], strict=True))
    if not whole:
        raise PlanError(f"The query-key dims of block {index} split a pair that is rotated together", got=keep.qk[0])
    if plan.rope == "shared" and len(set(keep.qk)) > 1:
        raise PlanError(f"The heads of block {index} share a rotary table", expected="the same query-key dims in all")


def _check_heads(what: str, per_head: Sequence[Sequence[int]], heads: int, size: int) -> None:
    if len(per_head) != heads:
        raise PlanError(f"The {what} need one list per kept head", expected=heads, got=len(per_head))
    for dims in per_head:
        _check_indices(what, dims, size)
    widths = {len(dims) for dims in per_head}
    if len(widths) != 1:
        raise PlanError(f"The {what} must be as many in every head", got=sorted(widths))
