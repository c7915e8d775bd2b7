from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_bench.latency_table.files import (
    LEAST,
    knots_of,
    narrow_plans,
    part_depth,
    parts_to_time,
    random_plans,
    wholes_to_time,
)
from device_bench.latency_table.fit import fit_table
from device_bench.timing.isolated import time_isolated
from runtime import ArtifactError, BlockPlan, MeasurementError, ShapePlan, latency_of, macs
from tests.device_bench.conftest import write_onnx
from tests.tables import CONDITIONS, LAST, model_ns, stair_table, stair_times

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
    assert len(parts_to_time(WIDE, "fp32")) < 3000


def test_everything_to_time_is_small_and_named_once() -> None:
    parts = parts_to_time(PLAN, "fp32")
    assert len(set(parts)) == len(parts)
    assert {len(plan.blocks) for plan, _ in parts} == {1, 2}
    assert all(len(set(plan.blocks)) == 1 for plan, _ in parts)
    assert not any(pooled_only for plan, pooled_only in parts if len(plan.blocks) == 2)
    ships = [plan for plan, pooled_only in parts if pooled_only]
    assert {plan.blocks[0] for plan in ships} == {LEAST, BlockPlan(3, 32, 32, 256)}
    assert {(plan, False) for plan in ships} <= set(parts)
    wholes = wholes_to_time(PLAN)
    assert wholes[0] == (PLAN, True)
    assert wholes == wholes_to_time(PLAN)
    assert all(len(plan.blocks) == 2 and pooled_only for plan, pooled_only in wholes)
    assert len(set(random_plans(WIDE, 20, 1)) | set(random_plans(WIDE, 20, 2))) == 40


def test_parts_are_timed_in_models_that_no_near_cache_holds() -> None:
    tiny = replace(WIDE, embed_dim=192, blocks=(BlockPlan(3, 64, 64, 768),) * 12)
    assert part_depth(WIDE, "fp32") == 2  # 7 MB a block
    assert part_depth(WIDE, "int8") == 5
    assert part_depth(tiny, "fp32") == 5
    assert part_depth(tiny, "int8") == 12  # 0.4 MB a block: all there are
    assert {len(plan.blocks) for plan, _ in parts_to_time(tiny, "fp32")} == {1, 5}


def test_some_whole_models_are_as_narrow_as_a_search_may_go() -> None:
    plans = [plan for plan, _ in wholes_to_time(WIDE)]
    shares = sorted(macs(plan) / macs(WIDE) for plan in plans)
    assert shares[0] < 0.05
    assert shares[len(shares) // 4] < 0.3
    assert shares[-1] == 1
    narrowest = min(block.mlp_dim for plan in plans for block in plan.blocks)
    assert narrowest < 0.03 * WIDE.blocks[0].mlp_dim
    assert len(set(narrow_plans(WIDE, 20, 1)) & set(narrow_plans(WIDE, 20, 2))) < 3  # narrow enough, they are one


@pytest.mark.parametrize("last", [LAST, 1.0])
@pytest.mark.parametrize("plan", [PLAN, WIDE])
def test_random_plans_are_predicted_on_a_machine_of_stairs(plan: ShapePlan, last: float) -> None:
    table = stair_table(plan, last)
    assert table.last_share == pytest.approx(last, abs=0.001)
    assert 19 <= len(table.checks) <= 20
    assert table.median_error < 0.02
    latency = latency_of(table)
    for plans, most in ((random_plans(plan, 40, 5), 0.08), (narrow_plans(plan, 40, 5), 0.15)):
        errors = [abs(latency(p) / model_ns(p, last=last) - 1) for p in plans]
        assert float(np.median(errors)) < 0.02
        assert max(errors) < most


def test_the_residual_is_found_and_kept_from_the_checks() -> None:
    times = stair_times(PLAN)
    times |= {whole: 1.3 * times[whole] + 50_000 for whole in wholes_to_time(PLAN)}
    table = fit_table(PLAN, CONDITIONS, times)
    assert table.factors == pytest.approx((1.3, 1.3, 1.3, 1.3), rel=0.1)
    assert table.median_error < 0.02
    wholes = wholes_to_time(PLAN)
    assert [check.plan for check in table.checks] == [plan for plan, _ in wholes[2::3]]
    spoiled = times | {wholes[2]: 10 * times[wholes[2]]}
    assert fit_table(PLAN, CONDITIONS, spoiled).factors == table.factors


def test_noise_does_not_make_a_narrower_model_slower() -> None:
    rng = np.random.default_rng(0)
    times = {file: time * rng.uniform(0.9, 1.1) for file, time in stair_times(PLAN).items()}
    latency = latency_of(fit_table(PLAN, CONDITIONS, times))
    for plan in random_plans(PLAN, 30, 3):
        for i, block in enumerate(plan.blocks):
            assert latency(plan.with_block(i, replace(block, mlp_dim=8))) <= latency(plan)
            assert latency(plan.with_block(i, replace(block, qk_dim=8))) <= latency(plan)
            assert latency(plan.with_block(i, replace(block, num_heads=1))) <= latency(plan)
        assert latency(replace(plan, embed_dim=8)) <= latency(plan)


def test_a_missing_time_and_a_senseless_one_are_said() -> None:
    times, parts, wholes = stair_times(PLAN), parts_to_time(PLAN, "fp32"), wholes_to_time(PLAN)
    for missing in (parts[3], next(file for file in parts if file[1]), wholes[4]):
        with pytest.raises(MeasurementError, match="missing"):
            fit_table(PLAN, CONDITIONS, {file: time for file, time in times.items() if file != missing})
    upside_down = times | {whole: 1e10 / times[whole] for whole in wholes}
    with pytest.raises(MeasurementError, match="do not grow"):
        fit_table(PLAN, CONDITIONS, upside_down)


def test_the_share_of_the_last_block_is_that_of_most_widths_and_within_its_limits() -> None:
    wide = [file for file in parts_to_time(PLAN, "fp32") if file[1] and file[0].blocks[0] != LEAST]
    times = stair_times(PLAN)
    disturbed = times | {file: 10 * times[file] for file in wide[: len(wide) // 2 - 1]}
    assert fit_table(PLAN, CONDITIONS, disturbed).last_share == pytest.approx(LAST, abs=0.01)
    assert fit_table(PLAN, CONDITIONS, times | dict.fromkeys(wide, 1.0)).last_share == 0
    assert fit_table(PLAN, CONDITIONS, times | dict.fromkeys(wide, 1e9)).last_share == 1.5


def test_files_are_timed_apart_in_order(tmp_path: Path) -> None:
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    write_onnx(small, (1, 4))
    write_onnx(large, (1, 4))
    times = time_isolated([large, small], rounds=4)
    assert len(times) == 2
    assert all(0 < time < 10 for time in times)
    with pytest.raises(ArtifactError, match="does not exist"):
        time_isolated([tmp_path / "none.onnx"])
