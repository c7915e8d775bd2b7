"""The search method ``one-shot``: removes the groups with the least importance per cost saved until a budget is met."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from compress.budget import Budget, Cost
from compress.importance.units import Importance, check_finite_importance
from compress.model.slicing import KeptBlock, KeptUnits, keep_all, plan_of, widths_of
from runtime import ShapePlan

from .base import GroupSizes, Proposal, SearchInputs

_UNEVEN_MULTIPLES = 8

Action = Literal["mlp", "qk", "v", "head", "embed"]


@dataclass(frozen=True)
class GroupRemoval:
    """The removal of one group of units.

    Attributes:
        action: kind of the group.
        block: block of the group, or -1 for the whole model.
        importance: total importance of the removed units.
        kept: the units that are kept.
    """

    action: Action
    block: int
    importance: float
    kept: KeptUnits


def choose(inputs: SearchInputs) -> Proposal:
    """Chooses units by ``propose``."""
    plan, importance = inputs.model.plan, inputs.take_importance()
    return propose(plan, importance, inputs.required_budget, keep_all(plan), inputs.groups, cost=inputs.cost)


def propose(
    plan: ShapePlan,
    importance: Importance,
    budget: Budget,
    start: KeptUnits,
    sizes: GroupSizes | None = None,
    *,
    cost: Cost | None = None,
) -> Proposal:
    """Removes groups, the least importance per cost saved first, until the budget is met.

    A group that would undershoot the budget by more than 2 % is removed only when no other is left. For uneven costs
    (time falls in steps), groups of several times their size are considered too.

    Args:
        plan: plan of the model to prune.
        importance: importance of its units.
        budget: the budget to meet.
        start: units that are there to begin with (``keep_all(plan)``).
        sizes: units that one removal takes.
        cost: cost that removals save; None takes the budget's.

    Raises:
        PlanError: the budget is not met after all removals, or an importance is not finite.
    """
    check_finite_importance(importance)
    sizes, saved_in = sizes or GroupSizes(), cost or budget.cost
    kept, now = start, plan_of(plan, start)
    steps = []
    while (spent := budget.of(now)) > budget.limit:
        best: tuple[tuple[bool, float], GroupRemoval, ShapePlan] | None = None
        before = saved_in.of(now)
        for removal in removals(plan, importance, kept, sizes, multiples_of(saved_in)):
            after = widths_of(plan, removal.kept)
            rank = (budget.of(after) < budget.floor, price(removal.importance, before - saved_in.of(after)))
            if best is None or rank < best[0]:
                best = rank, removal, after
        if best is None:
            raise budget.unreachable(spent)
        _, removal, now = best
        kept = removal.kept
        steps.append(
            {
                "action": removal.action,
                "block": removal.block,
                "importance": removal.importance,
                "cost": budget.of(now),
            }
        )
    return Proposal(plan_of(plan, kept), kept, tuple(steps))


def price(importance: float, saved: int) -> float:
    """Returns the importance lost per cost saved; infinity where no cost is saved."""
    return importance / saved if saved > 0 else math.inf


def multiples_of(cost: Cost) -> int:
    """Returns the most group sizes that one removal may take for a cost.

    Where equal steps save equal costs, a single group is always best. Time falls in steps, and the next step may take
    several groups.
    """
    return _UNEVEN_MULTIPLES if cost.uneven else 1


def removals(
    plan: ShapePlan, importance: Importance, kept: KeptUnits, sizes: GroupSizes, multiples: int = 1
) -> Iterator[GroupRemoval]:
    """Yields the possible next removals: one ``mlp``, ``qk``, ``v`` and ``head`` for each block, and one ``embed``.

    Each takes the least important group of its kind. The last 8 of a width and the last head of a block are never
    removed. ``multiples`` adds groups of up to so many times the size, smaller ones first.
    """
    for i, (keep, scores) in enumerate(zip(kept.blocks, importance.blocks, strict=True)):
        for size in _multiples(sizes.mlp, len(keep.mlp), multiples):
            mlp, lost = _drop(keep.mlp, scores.mlp, size)
            yield GroupRemoval("mlp", i, lost, _with_block(kept, i, replace(keep, mlp=mlp)))
        for size in _multiples(sizes.qk, len(keep.qk[0]), multiples):
            dims, lost = _drop_in_heads(keep.heads, keep.qk, scores.qk, size)
            yield GroupRemoval("qk", i, lost, _with_block(kept, i, replace(keep, qk=dims)))
        for size in _multiples(sizes.v, len(keep.v[0]), multiples):
            dims, lost = _drop_in_heads(keep.heads, keep.v, scores.v, size)
            yield GroupRemoval("v", i, lost, _with_block(kept, i, replace(keep, v=dims)))
        if len(keep.heads) > 1:
            block, lost = _drop_head(keep, scores.qk, scores.v)
            yield GroupRemoval("head", i, lost, _with_block(kept, i, block))
    for size in _multiples(sizes.embed, len(kept.embed), multiples):
        embed, lost = _drop(kept.embed, importance.embed, size)
        yield GroupRemoval("embed", -1, lost, replace(kept, embed=embed))


def _multiples(size: int, width: int, most: int) -> range:
    """Returns up to ``most`` multiples of ``size`` that are smaller than ``width``."""
    return range(size, min(size * most, width - 1) + 1, size)


def _drop(indices: tuple[int, ...], scores: npt.NDArray[np.float64], count: int) -> tuple[tuple[int, ...], float]:
    """Drops the ``count`` least important ``indices``, the later among equals; returns the rest and the loss."""
    own = scores[list(indices)]
    order = np.lexsort((-np.arange(len(own)), own))
    gone = order[:count]
    rest = np.sort(order[count:])
    return tuple(indices[int(i)] for i in rest), float(own[gone].sum())


def _drop_in_heads(
    heads: tuple[int, ...], dims: tuple[tuple[int, ...], ...], scores: npt.NDArray[np.float64], count: int
) -> tuple[tuple[tuple[int, ...], ...], float]:
    """Drops the ``count`` least important dimensions of every head."""
    dropped = [_drop(own, scores[head], count) for head, own in zip(heads, dims, strict=True)]
    return tuple(rest for rest, _ in dropped), sum(lost for _, lost in dropped)


def _drop_head(keep: KeptBlock, qk: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> tuple[KeptBlock, float]:
    """Drops the least important head, by the sum over its remaining dimensions."""
    totals = [
        float(qk[head, list(own_qk)].sum() + v[head, list(own_v)].sum())
        for head, own_qk, own_v in zip(keep.heads, keep.qk, keep.v, strict=True)
    ]
    gone = int(np.argmin(totals))
    rest = [i for i in range(len(keep.heads)) if i != gone]
    return (
        KeptBlock(
            tuple(keep.heads[i] for i in rest),
            tuple(keep.qk[i] for i in rest),
            tuple(keep.v[i] for i in rest),
            keep.mlp,
        ),
        totals[gone],
    )


def _with_block(kept: KeptUnits, index: int, block: KeptBlock) -> KeptUnits:
    return replace(kept, blocks=(*kept.blocks[:index], block, *kept.blocks[index + 1 :]))
