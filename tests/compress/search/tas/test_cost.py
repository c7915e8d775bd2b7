from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.budget import Cost, parse_cost
from compress.search.tas.candidates import DEPTH, EMBED, Choice, candidates_of, plan_with
from compress.search.tas.cost import CostTable, cost_hinge
from runtime import BlockPlan, ShapePlan
from tests.tables import stair_table

PLAN = ShapePlan(
    (32, 32), (8, 8), 1, 10, 32, (BlockPlan(3, 16, 24, 64), BlockPlan(2, 16, 24, 64), BlockPlan(3, 8, 16, 40)), 0.177
)
TABLES = {"cpu": stair_table(replace(PLAN, blocks=(BlockPlan(3, 16, 24, 64),) * 3))}
COSTS = [parse_cost(name, PLAN, TABLES) for name in ("macs", "params", "latency@cpu")]
CANDIDATES = candidates_of(PLAN, 3, 0.3)


def random_odds(seed: int) -> dict[Choice, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        choice: torch.rand(len(widths), dtype=torch.float64, generator=generator).softmax(0).requires_grad_()
        for choice, widths in CANDIDATES.items()
    }


def test_candidates_are_multiples_of_8_evenly_spaced_up_to_the_models_own() -> None:
    plan = replace(PLAN, embed_dim=192, blocks=(BlockPlan(3, 64, 64, 768),) * 12)
    found = candidates_of(plan, 8, 0.3)
    assert found[EMBED] == (64, 80, 104, 120, 136, 152, 176, 192)
    assert found[Choice("mlp", 11)] == (232, 312, 384, 464, 536, 616, 688, 768)
    assert found[Choice("heads", 0)] == (1, 2, 3)
    assert found[DEPTH] == (4, 5, 6, 7, 9, 10, 11, 12)
    assert len(found) == 2 + 2 * 12
    assert CANDIDATES[Choice("mlp", 2)] == (16, 32, 40)
    smallest = replace(PLAN, embed_dim=8, blocks=(BlockPlan(1, 8, 8, 8),))
    assert set(candidates_of(smallest, 8, 0.3).values()) == {(8,), (1,)}


def test_a_plan_has_what_was_chosen() -> None:
    chosen = {choice: widths[0] for choice, widths in CANDIDATES.items()}
    assert plan_with(PLAN, chosen) == replace(PLAN, embed_dim=16, blocks=(BlockPlan(1, 16, 24, 24),))
    whole = {choice: widths[-1] for choice, widths in CANDIDATES.items()}
    assert plan_with(PLAN, whole) == PLAN


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.name)
def test_the_parts_add_up_to_the_cost_of_every_plan(cost: Cost) -> None:
    table, generator = CostTable.of(PLAN, CANDIDATES, cost), random.Random(0)
    for _ in range(200):
        index = {choice: generator.randrange(len(widths)) for choice, widths in CANDIDATES.items()}
        plan = plan_with(PLAN, {choice: CANDIDATES[choice][i] for choice, i in index.items()})
        parts = sum(int(extra[index[choice]]) for choice, extra in table.blocks(index[EMBED], index[DEPTH]))
        assert table.ends[index[EMBED], index[DEPTH]] + parts == cost.of(plan)


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.name)
def test_the_expected_cost_is_the_mean_over_every_plan(cost: Cost) -> None:
    table, odds = CostTable.of(PLAN, CANDIDATES, cost), random_odds(3)
    choices, mean = list(CANDIDATES), 0.0
    known: dict[ShapePlan, int] = {}
    for picks in itertools.product(*(range(len(CANDIDATES[choice])) for choice in choices)):
        plan = plan_with(PLAN, {c: CANDIDATES[c][i] for c, i in zip(choices, picks, strict=True)})
        if plan not in known:
            known[plan] = cost.of(plan)
        mean += math.prod(float(odds[c][i].detach()) for c, i in zip(choices, picks, strict=True)) * known[plan]
    assert float(table.expected(odds).detach()) == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.name)
def test_certain_odds_cost_what_their_plan_costs_and_gradients_reach_all(cost: Cost) -> None:
    table = CostTable.of(PLAN, CANDIDATES, cost)
    certain = {c: torch.eye(len(widths), dtype=torch.float64)[len(widths) // 2] for c, widths in CANDIDATES.items()}
    middle = plan_with(PLAN, {c: widths[len(widths) // 2] for c, widths in CANDIDATES.items()})
    assert float(table.expected(certain)) == cost.of(middle)
    odds = random_odds(1)
    gradients = torch.autograd.grad(table.expected(odds), list(odds.values()))
    for choice, gradient in zip(odds, gradients, strict=True):
        assert np.isfinite(gradient.numpy()).all()
        # a staircase may hold the same time for two widths; elsewhere wider is dearer
        rising = torch.diff(gradient) >= 0 if cost.uneven else torch.diff(gradient) > 0
        assert rising.all(), choice


@pytest.mark.parametrize(("cost", "sign"), [(1200, 1), (1101, 1), (1100, 0), (1000, 0), (900, 0), (899, -1), (1, -1)])
def test_the_hinge_has_three_branches(cost: int, sign: int) -> None:
    expected = torch.tensor(1234.5, dtype=torch.float64, requires_grad=True)
    loss = cost_hinge(expected, cost, 1000, 0.1)
    assert float(loss.detach()) == pytest.approx(sign * math.log(1234.5), abs=1e-12)
    if sign:
        (gradient,) = torch.autograd.grad(loss, expected)
        assert float(gradient) == pytest.approx(sign / 1234.5, rel=1e-12)
    else:
        assert not loss.requires_grad
