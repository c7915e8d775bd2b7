from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_bench import fit_table, parts_to_time, random_plans, time_apart, wholes_to_time
from device_bench.profile import LEAST, knots_of
from runtime import ArtifactError, BlockPlan, MeasurementError, ShapePlan, latency_of
from tests.tables import CONDITIONS, model_ns, stair_table

from .conftest import write_onnx

PLAN = ShapePlan((32, 32), (8, 8), 1, 10, 64, (BlockPlan(2, 32, 32, 256), BlockPlan(3, 32, 16, 128)), 0.177)
WIDE = ShapePlan((224, 224), (16, 16), 3, 1000, 384, (BlockPlan(6, 64, 64, 1536),) * 12, 0.125)


def test_knots_reach_from_the_least_to_the_largest_width() -> None:
    for plan in (PLAN, WIDE):
        knots = knots_of(plan)
        for axis, largest, least in (
            (knots.embed, plan.embed_dim, 8),
            (knots.coarse, plan.embed_dim, 8),
            (knots.mlp, max(b.mlp_dim for b in plan.blocks), 8),
            (knots.heads, max(b.num_heads for b in plan.blocks), 1),
            (knots.qk, max(b.qk_dim for b in plan.blocks), 8),
            (knots.v, max(b.v_dim for b in plan.blocks), 8),
        ):
            assert (axis[0], axis[-1]) == (least, largest)
            assert list(axis) == sorted(set(axis))
            assert all(width % least == 0 for width in axis)
    assert len(parts_to_time(WIDE)) < 3000


def test_everything_to_time_is_small_and_named_once() -> None:
    parts = parts_to_time(PLAN)
    assert len(set(parts)) == len(parts)
    assert {len(plan.blocks) for plan in parts} == {1, 2}
    assert all(plan.blocks == (LEAST, LEAST) for plan in parts if len(plan.blocks) == 2)
    wholes = wholes_to_time(PLAN)
    assert wholes[0] == PLAN
    assert wholes == wholes_to_time(PLAN)
    assert all(len(plan.blocks) == 2 for plan in wholes)
    assert len(set(random_plans(WIDE, 20, 1)) | set(random_plans(WIDE, 20, 2))) == 40


@pytest.mark.parametrize("plan", [PLAN, WIDE])
def test_random_plans_are_predicted_on_a_machine_of_stairs(plan: ShapePlan) -> None:
    table = stair_table(plan)
    assert 19 <= len(table.checks) <= 20
    assert table.median_error < 0.02
    latency = latency_of(table)
    errors = [abs(latency(p) / model_ns(p) - 1) for p in random_plans(plan, 40, 5)]
    assert float(np.median(errors)) < 0.02
    assert max(errors) < 0.08


def test_the_residual_is_found_and_kept_from_the_checks() -> None:
    times = {plan: model_ns(plan) for plan in parts_to_time(PLAN)}
    times |= {plan: 1.3 * model_ns(plan) + 50_000 for plan in wholes_to_time(PLAN)}
    table = fit_table(PLAN, CONDITIONS, times)
    assert table.factors == pytest.approx((1.3, 1.3, 1.3, 1.3), rel=0.1)
    assert table.median_error < 0.02
    wholes = wholes_to_time(PLAN)
    assert [check.plan for check in table.checks] == list(wholes[2::3])
    spoiled = times | {wholes[2]: 10 * times[wholes[2]]}
    assert fit_table(PLAN, CONDITIONS, spoiled).factors == table.factors


def test_noise_does_not_make_a_narrower_model_slower() -> None:
    rng = np.random.default_rng(0)
    times = {plan: model_ns(plan) * rng.uniform(0.9, 1.1) for plan in (*parts_to_time(PLAN), *wholes_to_time(PLAN))}
    latency = latency_of(fit_table(PLAN, CONDITIONS, times))
    for plan in random_plans(PLAN, 30, 3):
        block = plan.blocks[0]
        assert latency(plan.with_block(0, replace(block, mlp_dim=8))) <= latency(plan)
        assert latency(plan.with_block(0, replace(block, qk_dim=8))) <= latency(plan)
        assert latency(plan.with_block(0, replace(block, num_heads=1))) <= latency(plan)
        assert latency(replace(plan, embed_dim=8)) <= latency(plan)


def test_a_missing_time_and_a_senseless_one_are_said() -> None:
    times = {plan: model_ns(plan) for plan in (*parts_to_time(PLAN), *wholes_to_time(PLAN))}
    first = parts_to_time(PLAN)[3]
    with pytest.raises(MeasurementError, match="missing"):
        fit_table(PLAN, CONDITIONS, {plan: time for plan, time in times.items() if plan != first})
    upside_down = times | {plan: 1e10 / model_ns(plan) for plan in wholes_to_time(PLAN)}
    with pytest.raises(MeasurementError, match="do not grow"):
        fit_table(PLAN, CONDITIONS, upside_down)


def test_files_are_timed_apart_in_order(tmp_path: Path) -> None:
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    write_onnx(small, (1, 4))
    write_onnx(large, (1, 4))
    times = time_apart([large, small], rounds=4)
    assert len(times) == 2
    assert all(0 < time < 10 for time in times)
    with pytest.raises(ArtifactError, match="does not exist"):
        time_apart([tmp_path / "none.onnx"])
