"""One-shot choice of what to prune: the cheapest groups by importance per cost saved, down to a budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from runtime import MULTIPLE, PlanError, ShapePlan

from .budget import Budget
from .importance import Importance
from .slicing import BlockKept, Kept, plan_of, widths_of

Action = Literal["mlp", "qk", "v", "head", "embed"]


@dataclass(frozen=True)
class GroupSizes:
    """How many units one action removes: multiples of 8, by kind.

    Raises:
        PlanError: a size is not a positive multiple of 8.
    """

    mlp: int = MULTIPLE
    qk: int = MULTIPLE
    v: int = MULTIPLE
    embed: int = MULTIPLE

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size < MULTIPLE or size % MULTIPLE:
                raise PlanError(f"The group size of {name} must be a positive multiple of {MULTIPLE}", got=size)


@dataclass(frozen=True)
class Removal:
    """One group that can go.

    Attributes:
        action: its kind.
        block: where, or -1 for the whole model.
        importance: sum over the group, of the units still there.
        kept: what stays when it goes.
    """

    action: Action
    block: int
    importance: float
    kept: Kept


@dataclass(frozen=True)
class Proposal:
    """What to keep to meet a budget, and how it was chosen.

    Attributes:
        plan: the plan that is left.
        kept: the units that stay, as indices into the model.
        steps: every removal in order: action, block, importance, cost after it.
    """

    plan: ShapePlan
    kept: Kept
    steps: tuple[dict[str, Any], ...]


def propose(
    plan: ShapePlan, importance: Importance, budget: Budget, start: Kept, sizes: GroupSizes | None = None
) -> Proposal:
    """Removes group after group, least importance per cost saved first, until the budget is met.

    A group that would undershoot the budget by more than 2 % is taken only when no other is left.

    Args:
        plan: of the model to prune.
        importance: of its units.
        budget: what to get down to.
        start: what is kept to begin with (``keep_all(plan)``).
        sizes: how much one removal takes.

    Raises:
        PlanError: every group is gone and the budget is still not met, or an importance is not finite.
    """
    check_finite(importance)
    sizes = sizes or GroupSizes()
    kept, cost, floor = start, budget.of(plan_of(plan, start)), 0.98 * budget.limit
    steps = []
    while cost > budget.limit:
        best: tuple[tuple[bool, float], Removal, int] | None = None
        for removal in removals(plan, importance, kept, sizes):
            after = budget.of(widths_of(plan, removal.kept))
            rank = (after < floor, removal.importance / (cost - after))
            if best is None or rank < best[0]:
                best = rank, removal, after
        if best is None:
            raise PlanError(
                "The budget cannot be met with these group sizes",
                expected=f"at least {budget.cost}={cost}",
                got=f"{budget.cost}={budget.limit}",
                fix="Raise the budget or choose smaller groups",
            )
        _, removal, cost = best
        kept = removal.kept
        steps.append({"action": removal.action, "block": removal.block, "importance": removal.importance, "cost": cost})
    return Proposal(plan_of(plan, kept), kept, tuple(steps))


def check_finite(importance: Importance) -> None:
    """Refuses importance from which nothing can be chosen.

    Raises:
        PlanError: a value is not a finite number.
    """
    parts = [importance.embed, *(part for block in importance.blocks for part in (block.qk, block.v, block.mlp))]
    if not all(np.isfinite(part).all() for part in parts):
        raise PlanError(
            "The importance of some units is not finite",
            fix="The model's training diverged: train it again with a lower learning rate",
        )


def removals(plan: ShapePlan, importance: Importance, kept: Kept, sizes: GroupSizes) -> Iterator[Removal]:
    """Yields every group that may go next: per block one of MLP, QK, V and HEAD, and one EMB for the model.

    Each is the least important of its kind; the last 8 of a width and the last head of a block stay.
    """
    for i, (keep, scores) in enumerate(zip(kept.blocks, importance.blocks, strict=True)):
        if len(keep.mlp) > sizes.mlp:
            mlp, lost = _drop(keep.mlp, scores.mlp, sizes.mlp)
            yield Removal("mlp", i, lost, _with_block(kept, i, replace(keep, mlp=mlp)))
        if len(keep.qk[0]) > sizes.qk:
            dims, lost = _drop_in_heads(keep.heads, keep.qk, scores.qk, sizes.qk)
            yield Removal("qk", i, lost, _with_block(kept, i, replace(keep, qk=dims)))
        if len(keep.v[0]) > sizes.v:
            dims, lost = _drop_in_heads(keep.heads, keep.v, scores.v, sizes.v)
            yield Removal("v", i, lost, _with_block(kept, i, replace(keep, v=dims)))
        if len(keep.heads) > 1:
            block, lost = _drop_head(keep, scores.qk, scores.v)
            yield Removal("head", i, lost, _with_block(kept, i, block))
    if len(kept.embed) > sizes.embed:
        embed, lost = _drop(kept.embed, importance.embed, sizes.embed)
        yield Removal("embed", -1, lost, replace(kept, embed=embed))


def _drop(indices: tuple[int, ...], scores: npt.NDArray[np.float64], count: int) -> tuple[tuple[int, ...], float]:
    """Drops the ``count`` least important of ``indices`` (the later one of equals); returns the rest and their sum."""
    own = scores[list(indices)]
    order = np.lexsort((-np.arange(len(own)), own))
    gone = order[:count]
    rest = np.sort(order[count:])
    return tuple(indices[int(i)] for i in rest), float(own[gone].sum())


def _drop_in_heads(
    heads: tuple[int, ...], dims: tuple[tuple[int, ...], ...], scores: npt.NDArray[np.float64], count: int
) -> tuple[tuple[tuple[int, ...], ...], float]:
    """Drops ``count`` dimensions of every head, each head its own least important ones."""
    dropped = [_drop(own, scores[head], count) for head, own in zip(heads, dims, strict=True)]
    return tuple(rest for rest, _ in dropped), sum(lost for _, lost in dropped)


def _drop_head(keep: BlockKept, qk: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> tuple[BlockKept, float]:
    """Drops the least important head, counting only the dimensions it still has."""
    totals = [
        float(qk[head, list(own_qk)].sum() + v[head, list(own_v)].sum())
        for head, own_qk, own_v in zip(keep.heads, keep.qk, keep.v, strict=True)
    ]
    gone = int(np.argmin(totals))
    rest = [i for i in range(len(keep.heads)) if i != gone]
    return (
        BlockKept(
            tuple(keep.heads[i] for i in rest),
            tuple(keep.qk[i] for i in rest),
            tuple(keep.v[i] for i in rest),
            keep.mlp,
        ),
        totals[gone],
    )


def _with_block(kept: Kept, index: int, block: BlockKept) -> Kept:
    return replace(kept, blocks=(*kept.blocks[:index], block, *kept.blocks[index + 1 :]))
