from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from compress.budget import COUNTS, parse_cost
from compress.search.tas.candidates import DEPTH, Candidates, Choice, candidates_of, plan_with
from compress.search.tas.cost import CostTable
from compress.search.tas.plan import Floats, argmax_plan, most_likely
from runtime import BlockPlan, ShapePlan
from tests.tables import stair_table

PLAN = ShapePlan((32, 32), (8, 8), 1, 10, 32, (BlockPlan(2, 16, 16, 64), BlockPlan(3, 16, 16, 48)), 0.25)
COSTS = {**COUNTS, "latency": parse_cost("latency@cpu", PLAN, {"cpu": stair_table(PLAN)})}


def random_odds(candidates: Candidates, seed: int) -> dict[Choice, Floats]:
    generator = np.random.default_rng(seed)
    return {choice: generator.dirichlet(np.full(len(widths), 0.5)) for choice, widths in candidates.items()}


def given_up(candidates: Candidates, odds: dict[Choice, Floats], chosen: dict[Choice, int]) -> float:
    """Of every choice there is in a plan: by how much its candidate is less likely than the likeliest, nats."""
    total = 0.0
    for choice, width in chosen.items():
        if choice.block < chosen[DEPTH]:
            p = np.maximum(odds[choice], 1e-12)
            total += math.log(p.max() / p[candidates[choice].index(width)])
    return total


def every_choice(candidates: Candidates) -> list[dict[Choice, int]]:
    return [dict(zip(candidates, picks, strict=True)) for picks in itertools.product(*candidates.values())]


@pytest.mark.parametrize("unit", COSTS)
@pytest.mark.parametrize("seed", range(8))
def test_no_plan_in_the_band_gives_up_less(unit: str, seed: int) -> None:
    cost = COSTS[unit]
    candidates = candidates_of(PLAN, 3, 0.2)
    odds, table, whole = random_odds(candidates, seed), CostTable.of(PLAN, candidates, cost), cost.of(PLAN)
    share = np.random.default_rng([seed, 1]).uniform(0.3, 0.9)
    low, high = math.ceil(0.95 * share * whole), int(share * whole)
    least = min(
        (
            given_up(candidates, odds, chosen)
            for chosen in every_choice(candidates)
            if low <= cost.of(plan_with(PLAN, chosen)) <= high
        ),
        default=None,
    )
    found = most_likely(candidates, odds, table, low, high)
    if least is None:
        assert found is None
        return
    assert found is not None
    assert low <= cost.of(plan_with(PLAN, found)) <= high
    assert given_up(candidates, odds, found) == pytest.approx(least, abs=1e-6)


def test_the_likeliest_plan_is_taken_where_its_cost_fits() -> None:
    candidates = candidates_of(PLAN, 4, 0.2)
    for seed in range(20):
        odds = random_odds(candidates, seed)
        likeliest = argmax_plan(candidates, odds)
        assert all(odds[c][candidates[c].index(width)] == odds[c].max() for c, width in likeliest.items())
        cost = COUNTS["macs"].of(plan_with(PLAN, likeliest))
        found = most_likely(candidates, odds, CostTable.of(PLAN, candidates, COUNTS["macs"]), cost, cost)
        assert found is not None
        assert found == {c: width for c, width in likeliest.items() if c.block < likeliest[DEPTH]}


def test_of_equal_odds_the_largest_and_of_no_plan_none() -> None:
    candidates = candidates_of(PLAN, 4, 0.2)
    even = {choice: np.full(len(widths), 1 / len(widths)) for choice, widths in candidates.items()}
    assert plan_with(PLAN, argmax_plan(candidates, even)) == PLAN
    table = CostTable.of(PLAN, candidates, COUNTS["params"])
    least = COUNTS["params"].of(plan_with(PLAN, {choice: widths[0] for choice, widths in candidates.items()}))
    assert most_likely(candidates, even, table, least, least) is not None
    assert most_likely(candidates, even, table, 1, least - 1) is None
    assert most_likely(candidates, even, table, 10 * least**2, 11 * least**2) is None


def test_impossible_candidates_are_taken_when_nothing_else_fits() -> None:
    candidates = candidates_of(PLAN, 4, 0.2)
    sure = {choice: np.eye(len(widths))[0] for choice, widths in candidates.items()}
    whole = COUNTS["macs"].of(PLAN)
    found = most_likely(candidates, sure, CostTable.of(PLAN, candidates, COUNTS["macs"]), whole, whole)
    assert found is not None
    assert plan_with(PLAN, found) == PLAN


def test_a_model_of_many_blocks_takes_few_programs() -> None:
    """The published size: 12 blocks, 8 candidates; what is found is in a band of two per cent."""
    plan = replace(PLAN, embed_dim=192, blocks=(BlockPlan(3, 64, 64, 768),) * 12)
    candidates, cost = candidates_of(plan, 8, 0.3), COUNTS["macs"]
    odds, whole = random_odds(candidates, 0), cost.of(plan)
    found = most_likely(candidates, odds, CostTable.of(plan, candidates, cost), int(0.588 * whole), int(0.6 * whole))
    assert found is not None
    assert 0.588 <= cost.of(plan_with(plan, found)) / whole <= 0.6
