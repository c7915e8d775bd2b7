from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from compress.budget import COUNTS, Budget, parse_budget
from compress.importance.base import ImportanceInputs
from compress.importance.scores import l2, random
from compress.model.slicing import keep_all, slice_vit
from compress.search.uniform import even_plan, most_important, scale_evenly
from runtime import BlockPlan, PlanError, ShapePlan, macs
from tests.compress.tiny import TINY_PLAN, images_for, tiny_vit

ALIKE = replace(TINY_PLAN, embed_dim=48, blocks=(BlockPlan(2, 24, 24, 96),) * 3)


def spread_of(plan: ShapePlan) -> float:
    block = plan.blocks[0]
    shares = plan.embed_dim / 48, block.v_dim / 24, block.mlp_dim / 96
    return math.log(max(shares) / min(shares))


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.15])
def test_the_evenest_of_all_plans_is_found(share: float) -> None:
    high = int(share * macs(ALIKE))
    low = int(0.95 * high)
    every = [
        replace(ALIKE, embed_dim=c, blocks=(BlockPlan(2, d, d, m),) * 3)
        for c, d, m in product(range(8, 49, 8), range(8, 25, 8), range(8, 97, 8))
    ]
    fitting = [plan for plan in every if low <= macs(plan) <= high]
    found = even_plan(ALIKE, COUNTS["macs"], low, high)
    assert found in fitting
    assert spread_of(found) == pytest.approx(min(map(spread_of, fitting)))


def test_where_nothing_fits_there_is_no_plan() -> None:
    assert even_plan(ALIKE, COUNTS["macs"], 1, 2) is None


@pytest.mark.parametrize("budget", ["macs=0.7", "params=0.5"])
@pytest.mark.parametrize("plan", [ALIKE, TINY_PLAN])
def test_what_is_scaled_meets_the_budget_and_keeps_the_most_important(plan: ShapePlan, budget: str) -> None:
    model = tiny_vit(plan)
    importance, limit = l2(ImportanceInputs(model, ())), parse_budget(budget, plan)
    proposal = scale_evenly(plan, importance, limit)
    assert limit.of(proposal.plan) <= limit.limit
    assert [b.num_heads for b in proposal.plan.blocks] == [b.num_heads for b in plan.blocks]
    smaller = slice_vit(model, proposal.kept)
    assert smaller.plan == proposal.plan
    assert smaller(images_for(plan)).shape == (2, 3)
    gone = np.delete(importance.embed, list(proposal.kept.embed))
    assert not len(gone) or gone.max() <= importance.embed[list(proposal.kept.embed)].min()
    lost = [gone.sum()]
    for scores, keep in zip(importance.blocks, proposal.kept.blocks, strict=True):
        heads = [(scores.qk[h], keep.qk[h]) for h in keep.heads] + [(scores.v[h], keep.v[h]) for h in keep.heads]
        lost.append(sum(np.delete(own, list(dims)).sum() for own, dims in [*heads, (scores.mlp, keep.mlp)]))
    assert [step["importance"] for step in proposal.steps] == pytest.approx(lost)
    assert proposal.steps[-1]["cost"] == limit.of(proposal.plan)


def test_a_budget_for_everything_keeps_everything() -> None:
    importance = random(ImportanceInputs(tiny_vit(ALIKE), ()))
    proposal = scale_evenly(ALIKE, importance, Budget(COUNTS["macs"], macs(ALIKE)))
    assert proposal.kept == keep_all(ALIKE)


def test_what_cannot_be_met_is_refused() -> None:
    importance = random(ImportanceInputs(tiny_vit(ALIKE), ()))
    with pytest.raises(PlanError, match="cannot be met"):
        scale_evenly(ALIKE, importance, Budget(COUNTS["macs"], 10))
    with pytest.raises(PlanError, match="heads and blocks"):
        most_important(ALIKE, importance, replace(ALIKE, blocks=ALIKE.blocks[:1]))
