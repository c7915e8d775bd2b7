from __future__ import annotations

from dataclasses import replace

import pytest

from device_bench.latency_table.anchor import anchored, scaled, timed
from device_bench.latency_table.files import random_plans
from runtime import LATENCY_DOCUMENT, BlockPlan, ShapePlan, decode, encode, latency_of
from runtime.latency import LatencyTable
from tests.tables import stair_table

PLAN = ShapePlan((32, 32), (8, 8), 1, 10, 64, (BlockPlan(2, 32, 32, 256), BlockPlan(3, 32, 16, 128)), 0.177)
HALF = replace(PLAN, blocks=(BlockPlan(2, 16, 16, 96), BlockPlan(2, 16, 16, 64)))


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return stair_table(PLAN)


@pytest.mark.parametrize("off", [0.9, 1.0, 1.08])
def test_the_two_models_are_predicted_as_they_were_timed(table: LatencyTable, off: float) -> None:
    before = latency_of(table)
    share = off * before(HALF) / before(PLAN)
    new = anchored(table, HALF, share)
    after = latency_of(new)
    assert after(PLAN) == pytest.approx(before(PLAN), rel=1e-4)
    assert after(HALF) == pytest.approx(share * before(PLAN), rel=1e-4)
    check = timed(table, HALF, share)
    assert check.predicted_ns == before(HALF)
    assert check.measured_ns / check.predicted_ns == pytest.approx(off, rel=1e-4)
    kept = replace(new, anchors=(check,))
    assert decode(LatencyTable, encode(kept), "table") == kept


def test_what_is_cheaper_stays_cheaper(table: LatencyTable) -> None:
    before = latency_of(table)
    new = anchored(table, HALF, 1.07 * before(HALF) / before(PLAN))
    after = latency_of(new)
    plans = sorted(random_plans(PLAN, 40, 3), key=before)
    slope = (after(plans[-1]) - after(plans[0])) / (before(plans[-1]) - before(plans[0]))
    assert 0 < slope < 1  # HALF takes longer than predicted, the whole model as predicted
    for plan in plans:
        expected = after(plans[0]) + slope * (before(plan) - before(plans[0]))
        assert after(plan) == pytest.approx(expected, abs=10)  # each part is rounded to a nanosecond


@pytest.mark.parametrize("share", [0.97, 1.1])
def test_a_model_that_tells_no_slope_scales_the_table(table: LatencyTable, share: float) -> None:
    new = anchored(table, PLAN, share)
    assert latency_of(new)(HALF) == pytest.approx(share * latency_of(table)(HALF), rel=1e-4)


def test_a_table_is_scaled_to_the_time_of_the_whole_model(table: LatencyTable) -> None:
    new = scaled(table, 0.002)
    assert latency_of(new)(PLAN) == pytest.approx(2e6, rel=1e-4)
    assert latency_of(new)(HALF) / latency_of(new)(PLAN) == pytest.approx(
        latency_of(table)(HALF) / latency_of(table)(PLAN), rel=1e-4
    )


def test_a_table_without_anchors_is_read(table: LatencyTable) -> None:
    document = encode(table)
    del document["anchors"]
    assert decode(LatencyTable, document, "table") == table
    assert LATENCY_DOCUMENT.key == "table"
