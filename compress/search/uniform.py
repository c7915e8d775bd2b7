"""The search method ``uniform``: scales all widths by shares as equal as multiples of 8 allow."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import replace
from typing import Any

import numpy as np

from compress.budget import Budget, Cost
from compress.importance.units import Floats, Importance, check_finite_importance, lost_importance
from compress.model.slicing import KeptBlock, KeptUnits, plan_of
from runtime import MULTIPLE, PlanError, ShapePlan

from .base import Proposal, SearchInputs
from .steps import width_steps

_FLOORS = (0.98, 0.95, 0.9, 0.0)
"""Lowest cost of a result as a share of the budget; each share is tried until there is a plan."""


def choose(inputs: SearchInputs) -> Proposal:
    """Chooses units by ``scale_evenly``."""
    return scale_evenly(inputs.model.plan, inputs.take_importance(), inputs.required_budget)


def scale_evenly(plan: ShapePlan, importance: Importance, budget: Budget) -> Proposal:
    """Scales embed_dim, head widths and MLPs alike down to the budget, and keeps the most important units of each.

    All heads and blocks are kept.

    Args:
        plan: plan of the model to prune.
        importance: importance of its units.
        budget: the budget to meet.

    Returns:
        The plan, with the steps of ``width_steps``.

    Raises:
        PlanError: no widths meet the budget, or an importance is not finite.
    """
    check_finite_importance(importance)
    tried = (even_plan(plan, budget.cost, math.ceil(floor * budget.limit), budget.limit) for floor in _FLOORS)
    found = next((one for one in tried if one is not None), None)
    if found is None:
        least = replace(plan, embed_dim=MULTIPLE, blocks=_scaled(plan, 0.0, 0.0))
        raise budget.unreachable(budget.of(least))
    kept = most_important(plan, importance, found)
    return Proposal(plan_of(plan, kept), kept, width_steps(plan, found, budget, lost_importance(importance, kept)))


def even_plan(plan: ShapePlan, cost: Cost, low: int, high: int) -> ShapePlan | None:
    """Returns ``plan`` with embed_dim, head widths and mlp_dim scaled by shares as equal as multiples of 8 can be.

    Args:
        plan: plan of the unpruned model.
        cost: the cost; it must not fall where an MLP widens.
        low: lowest cost of the result, inclusive.
        high: highest cost of the result, inclusive.

    Returns:
        The plan, or None where no multiples of 8 have such a cost.
    """
    head = max(max(block.qk_dim, block.v_dim) for block in plan.blocks)
    mlp = max(block.mlp_dim for block in plan.blocks)
    best: tuple[float, ShapePlan] | None = None
    for embed in range(MULTIPLE, plan.embed_dim + 1, MULTIPLE):
        for width in range(MULTIPLE, head + 1, MULTIPLE):
            plans = _Widths(plan, embed, width / head, mlp)
            for number in range(bisect_left(plans, low, key=cost.of), bisect_right(plans, high, key=cost.of)):
                shares = (embed / plan.embed_dim, width / head, plans.share(number))
                spread = math.log(max(shares) / min(shares))
                if best is None or spread < best[0]:
                    best = spread, plans[number]
    return best[1] if best else None


class _Widths:
    """Plans with one embed_dim and one share of the head widths, from the narrowest MLPs to the widest."""

    def __init__(self, plan: ShapePlan, embed_dim: int, heads: float, mlp_dim: int) -> None:
        self.plan, self.embed_dim, self.heads, self.mlp_dim = plan, embed_dim, heads, mlp_dim

    def __len__(self) -> int:
        return self.mlp_dim // MULTIPLE

    def share(self, number: int) -> float:
        """Returns the share by which MLPs are scaled in a plan."""
        return MULTIPLE * (number + 1) / self.mlp_dim

    def __getitem__(self, number: int) -> ShapePlan:
        blocks = _scaled(self.plan, self.heads, self.share(number))
        return replace(self.plan, embed_dim=self.embed_dim, blocks=blocks)


def _scaled(plan: ShapePlan, heads: float, mlps: float) -> tuple[Any, ...]:
    """Returns the blocks with head widths and MLPs scaled, each to the nearest multiple of 8."""
    return tuple(
        replace(
            block,
            qk_dim=_nearest(heads * block.qk_dim),
            v_dim=_nearest(heads * block.v_dim),
            mlp_dim=_nearest(mlps * block.mlp_dim),
        )
        for block in plan.blocks
    )


def _nearest(width: float) -> int:
    return MULTIPLE * max(1, round(width / MULTIPLE))


def most_important(plan: ShapePlan, importance: Importance, smaller: ShapePlan) -> KeptUnits:
    """Returns the most important units at the widths of ``smaller``, chosen in every head by itself.

    Args:
        plan: plan of the model.
        importance: importance of its units; among equals the first is kept.
        smaller: a plan with the same heads and blocks and no larger width.

    Raises:
        PlanError: ``smaller`` has other heads or blocks.
    """
    if [b.num_heads for b in plan.blocks] != [b.num_heads for b in smaller.blocks]:
        raise PlanError("The smaller plan must have the heads and blocks of the larger one")
    blocks = []
    for scores, widths in zip(importance.blocks, smaller.blocks, strict=True):
        qk = tuple(_first(own, widths.qk_dim) for own in scores.qk)
        v = tuple(_first(own, widths.v_dim) for own in scores.v)
        blocks.append(KeptBlock(tuple(range(widths.num_heads)), qk, v, _first(scores.mlp, widths.mlp_dim)))
    return KeptUnits(_first(importance.embed, smaller.embed_dim), tuple(blocks))


def _first(scores: Floats, count: int) -> tuple[int, ...]:
    return tuple(sorted(np.argsort(-scores, kind="stable")[:count].tolist()))
