from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.budget import COUNTS, Budget, parse_budget, smallest_plan
from compress.model.slicing import plan_of
from runtime import BlockPlan, PlanError, ShapePlan, macs, params

from .strategies import kepts
from .tiny import TINY_PLAN

widths = st.integers(1, 40).map(lambda units: 8 * units)
plans = st.builds(
    lambda embed, blocks, classes: replace(TINY_PLAN, embed_dim=embed, blocks=tuple(blocks), num_classes=classes),
    widths,
    st.lists(st.builds(BlockPlan, st.integers(1, 6), widths, widths, widths), min_size=1, max_size=4),
    st.integers(1, 1000),
)
COSTS = {"params": params, "macs": macs}
WHOLE = {name: cost(TINY_PLAN) for name, cost in COSTS.items()}


@pytest.mark.parametrize("cost", ["params", "macs"])
@pytest.mark.parametrize(("text", "share"), [("0.75", 0.75), (".5", 0.5), ("1", 1.0), ("1.0", 1.0), ("0.9999", 0.9999)])
def test_a_share_is_of_the_baseline(cost: str, text: str, share: float) -> None:
    assert parse_budget(f"{cost}={text}", TINY_PLAN) == Budget(COUNTS[cost], int(share * WHOLE[cost]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("params=3000", 3000),
        ("params=3K", 3000),
        ("macs=0.3M", 300_000),
        ("params=4.1M", 4_100_000),
        ("params=1.001M", 1_001_000),
        ("macs=2.3G", 2_300_000_000),
        ("macs=.29G", 290_000_000),
        (" params=2999.9 ", 2999),
    ],
)
def test_a_number_is_taken_as_written(text: str, limit: int) -> None:
    assert parse_budget(text, TINY_PLAN).limit == limit


@given(st.integers(2 * 10**6, 10**9))
@settings(max_examples=200)
def test_decimal_points_lose_nothing(number: int) -> None:
    text = f"{number // 10**6}.{number % 10**6:06}"
    assert parse_budget(f"params={text}M", TINY_PLAN).limit == number
    assert parse_budget(f"macs={text}G", TINY_PLAN).limit == number * 1000


@pytest.mark.parametrize(
    "text",
    ["", "0.5", "macs", "macs=", "macs=0", "macs=-1", "macs=1e6", "macs=5X", "macs=5k", "latency=5", "params=nan",
     "params=0.0M", "macs=0.5,params=0.5", "macs==1", "MACS=0.5", "macs=1.", "macs=1 M"],
)  # fmt: skip
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_budget(text, TINY_PLAN)
    assert "That is not a budget. Expected macs=0.75, params=0.7, macs=300M, params=4.1M, latency=12ms@cpu or" in str(
        caught.value
    )
    assert f"Got {text!r}." in str(caught.value)


@given(plan=plans, cost=st.sampled_from(sorted(COSTS)))
@settings(max_examples=150)
def test_the_smallest_budget_that_the_refusal_names_is_one(plan: ShapePlan, cost: str) -> None:
    least, whole = COSTS[cost](smallest_plan(plan)), COSTS[cost](plan)
    if least > 1:
        with pytest.raises(PlanError) as caught:
            parse_budget(f"{cost}={(least - 1) / 10**9:.9f}G", plan)
        text = str(caught.value)
        assert "cannot be met by this model" in text
        assert f"({least:,} of {whole:,})" in text
        assert f"Got {least - 1:,}." in text
        named = re.search(rf"at least ({cost}=[\d.]+) \(", text)
        assert named is not None
        assert parse_budget(named[1], plan).limit >= least
    assert parse_budget(f"{cost}={least / 10**9:.9f}G", plan).limit == least


@given(data=st.data(), plan=plans)
@settings(max_examples=50, deadline=None)
def test_no_choice_is_smaller_than_the_smallest(data: st.DataObject, plan: ShapePlan) -> None:
    small, least = plan_of(plan, data.draw(kepts(plan))), smallest_plan(plan)
    assert len(least.blocks) == len(plan.blocks)
    assert all(Budget(COUNTS[cost], 0).of(least) <= Budget(COUNTS[cost], 0).of(small) for cost in ("params", "macs"))
    assert Budget(COUNTS["params"], 0).of(small) == params(small)
    assert Budget(COUNTS["macs"], 0).of(small) == macs(small)
