"""The importance of every prunable unit of a model, summed over the unit's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from compress.model.parts.axes import EMBED, Axis, parameter_axes
from compress.model.slicing import KeptUnits
from runtime import PlanError, ShapePlan

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BlockImportance:
    """Importance of the units of one block; all values are at least 0 and add up over a group.

    Attributes:
        qk: ``(num_heads, qk_dim)``.
        v: ``(num_heads, v_dim)``.
        mlp: ``(mlp_dim,)``.
    """

    qk: Floats
    v: Floats
    mlp: Floats

    @property
    def total(self) -> float:
        """Sum over all units of the block."""
        return float(self.qk.sum() + self.v.sum() + self.mlp.sum())


@dataclass(frozen=True)
class Importance:
    """Importance of every prunable unit of a model.

    Attributes:
        embed: ``(embed_dim,)``, the dimensions of the residual stream.
        blocks: one entry for each block.
    """

    embed: Floats
    blocks: tuple[BlockImportance, ...]

    def parts(self) -> Iterator[Floats]:
        """Yields the values of every kind of unit: of the stream, then of each block."""
        yield self.embed
        for block in self.blocks:
            yield from (block.qk, block.v, block.mlp)


def group_importance(plan: ShapePlan, scores: Mapping[str, torch.Tensor]) -> Importance:
    """Sums scores of single parameters into importance of units: ``I(W_g) = sum of I(w) over the group``.

    Args:
        plan: plan of the model.
        scores: non-negative tensors in the shape of the parameters, by parameter name.
    """
    sums: dict[Axis, torch.Tensor] = {}
    for name, axes in parameter_axes(plan).items():
        score = scores[name].double()
        for dim, axis in enumerate(axes):
            if axis is not None:
                others = [d for d in range(score.ndim) if d != dim]
                part = score.sum(dim=others) if others else score  # torch sums over all dims for an empty list
                sums[axis] = sums[axis] + part if axis in sums else part
    blocks = []
    for i, block in enumerate(plan.blocks):
        qk = together(plan, sums[Axis("qk", i)].view(block.num_heads, block.qk_dim))
        v = sums[Axis("v", i)].view(block.num_heads, block.v_dim)
        blocks.append(BlockImportance(qk.numpy(), v.numpy(), sums[Axis("mlp", i)].numpy()))
    return Importance(sums[EMBED].numpy(), tuple(blocks))


def together(plan: ShapePlan, qk: torch.Tensor) -> torch.Tensor:
    """Returns importance of query-key dimensions in which those that can only be removed together are equal.

    Under rotary positions the two dimensions of a pair share their importance, and all heads do whose table is one.

    Args:
        plan: plan of the model.
        qk: ``(num_heads, qk_dim)``.
    """
    if plan.rope == "none":
        return qk
    pairs = qk.reshape(len(qk), -1, 2).mean(2)
    pairs = pairs.mean(0, keepdim=True).expand_as(pairs) if plan.rope == "shared" else pairs
    both: torch.Tensor = pairs.repeat_interleave(2, 1)
    return both


def part_of(importance: Importance, kept: KeptUnits) -> Importance:
    """Returns the importance of the kept units, as measured before the others were removed."""
    blocks = []
    for own, keep in zip(importance.blocks, kept.blocks, strict=True):
        qk, v = (
            np.stack([scores[head, list(dims)] for head, dims in zip(keep.heads, per_head, strict=True)])
            for scores, per_head in ((own.qk, keep.qk), (own.v, keep.v))
        )
        blocks.append(BlockImportance(qk, v, own.mlp[list(keep.mlp)]))
    return Importance(importance.embed[list(kept.embed)], tuple(blocks))


@dataclass(frozen=True)
class LostImportance:
    """Importance of the units that are removed.

    Attributes:
        embed: importance of the removed dimensions of the stream.
        depth: importance of all units in blocks that are removed whole.
        blocks: importance of the units removed from each kept block.
    """

    embed: float
    depth: float
    blocks: tuple[float, ...]


def lost_importance(importance: Importance, kept: KeptUnits) -> LostImportance:
    """Returns the importance of the units that are not kept."""
    blocks = []
    for own, keep in zip(importance.blocks, kept.blocks, strict=False):
        qk, v = (
            _without(scores, ((head, dim) for head, dims in zip(keep.heads, per_head, strict=True) for dim in dims))
            for scores, per_head in ((own.qk, keep.qk), (own.v, keep.v))
        )
        blocks.append(qk + v + _without(own.mlp, ((unit,) for unit in keep.mlp)))
    depth = sum(block.total for block in importance.blocks[len(kept.blocks) :])
    return LostImportance(_without(importance.embed, ((dim,) for dim in kept.embed)), depth, tuple(blocks))


def _without(scores: Floats, kept: Iterable[tuple[int, ...]]) -> float:
    """Returns the sum of the scores at all other places."""
    removed = np.ones(scores.shape, dtype=bool)
    removed[tuple(np.array(list(kept)).T)] = False
    return float(scores[removed].sum())


def check_finite_importance(importance: Importance) -> None:
    """Refuses importance from which nothing can be chosen.

    Raises:
        PlanError: a value is not a finite number.
    """
    if not all(np.isfinite(part).all() for part in importance.parts()):
        raise PlanError(
            "The importance of some units is not finite",
            fix="The model's training diverged: train it again with a lower learning rate",
        )
