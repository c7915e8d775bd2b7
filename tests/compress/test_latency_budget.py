"""Budgets of time, on a made-up machine whose times fall in steps."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from compress.budget import parse_budget, parse_cost, smallest_plan
from compress.model.slicing import keep_all
from compress.search.base import GroupSizes
from compress.search.milp import solve
from compress.search.one_shot import propose
from runtime import BlockPlan, PlanError, ShapePlan
from tests.compress.search.test_one_shot import random_importance
from tests.tables import stair_table

PLAN = ShapePlan((32, 32), (8, 8), 1, 10, 96, (BlockPlan(3, 32, 32, 384),) * 4, 0.177)
TABLES = {"cpu": stair_table(PLAN)}
LATENCY = parse_cost("latency@cpu", PLAN, TABLES)


@pytest.mark.parametrize("cost", ["params", "macs", "latency@cpu"])
@pytest.mark.parametrize("choose", [propose, solve])
def test_random_budgets_are_met_and_hardly_undershot(choose: Any, cost: str) -> None:
    """Twenty of each kind: never above, and at most two per cent or one step below."""
    counted = parse_cost(cost, PLAN, TABLES)
    generator = random.Random(f"{cost} {choose.__name__}")
    whole, least = counted.of(PLAN), counted.of(smallest_plan(PLAN))
    kind, _, target = cost.partition("@")
    for seed in range(20):
        share = generator.uniform(1.2 * least / whole, 1.0)
        budget = parse_budget(f"{kind}={share:.4f}{f'@{target}' if target else ''}", PLAN, TABLES)
        found = choose(PLAN, random_importance(PLAN, seed), budget, keep_all(PLAN))
        spent = budget.of(found.plan)
        assert spent <= budget.limit
        if spent < budget.floor:  # then no single step back fits
            wider = []
            for i, block in enumerate(found.plan.blocks):
                whole_block = PLAN.blocks[i]
                for name, step in (("mlp_dim", 8), ("qk_dim", 8), ("v_dim", 8), ("num_heads", 1)):
                    width = getattr(block, name) + step
                    if width <= getattr(whole_block, name):
                        wider.append(found.plan.with_block(i, replace(block, **{name: width})))
            assert all(budget.of(plan) > budget.limit for plan in wider)


def test_a_budget_in_milliseconds_and_the_smallest_that_can_be_met() -> None:
    budget = parse_budget("latency=0.2ms@cpu", PLAN, TABLES)
    assert budget.limit == 200_000
    assert parse_budget("latency=200us@cpu", PLAN, TABLES).limit == 200_000
    assert parse_budget("latency=0.0002s@cpu", PLAN, TABLES).limit == 200_000
    assert parse_budget("latency=0.5@cpu", PLAN, TABLES).limit == int(0.5 * LATENCY.of(PLAN))
    with pytest.raises(PlanError) as caught:
        parse_budget("latency=0.001ms@cpu", PLAN, TABLES)
    named = str(caught.value).split("at least ")[1].split(" ")[0]
    assert parse_budget(f"{named}@cpu", PLAN, TABLES).limit >= LATENCY.of(smallest_plan(PLAN))
    for text in ("latency=12@cpu", "latency=12ms", "latency=ms@cpu", "latency=1min@cpu", "latency=0ms@cpu"):
        with pytest.raises(PlanError):
            parse_budget(text, PLAN, TABLES)


def test_a_table_that_is_missing_or_of_another_model_is_said() -> None:
    with pytest.raises(PlanError, match="no latency table of pi5"):
        parse_budget("latency=12ms@pi5", PLAN, TABLES)
    with pytest.raises(PlanError, match="another architecture"):
        parse_budget("latency=12ms@cpu", replace(PLAN, num_classes=3), TABLES)
    with pytest.raises(PlanError, match="params, macs or latency@cpu"):
        parse_cost("time", PLAN, TABLES)


@pytest.mark.parametrize("choose", [propose, solve])
def test_counting_time_gives_a_faster_model_for_the_importance_than_counting_macs(choose: Any) -> None:
    """At the latency that a MAC budget happens to reach, counting time itself loses less."""
    macs_budget, gains = parse_budget("macs=0.6", PLAN), []
    for seed in range(5):
        importance = random_importance(PLAN, seed)
        by_macs = choose(PLAN, importance, macs_budget, keep_all(PLAN))
        limit = LATENCY.of(by_macs.plan)
        by_time = choose(
            PLAN, importance, parse_budget(f"latency={limit / 1e6:.6f}ms@cpu", PLAN, TABLES), keep_all(PLAN)
        )
        assert LATENCY.of(by_time.plan) <= limit
        gains.append(lost(by_macs) - lost(by_time))
    assert min(gains) >= 0
    assert max(gains) > 0.05


def lost(proposal: Any) -> float:
    return float(sum(step["importance"] for step in proposal.steps))


def test_one_cost_can_choose_within_a_budget_of_another() -> None:
    importance = random_importance(PLAN, 3)
    budget = parse_budget("params=0.6", PLAN)
    plain = propose(PLAN, importance, budget, keep_all(PLAN))
    timed = propose(PLAN, importance, budget, keep_all(PLAN), GroupSizes(), cost=LATENCY)
    assert budget.floor <= budget.of(timed.plan) <= budget.limit
    assert LATENCY.of(timed.plan) < LATENCY.of(plain.plan)
