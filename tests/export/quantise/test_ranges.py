"""Grids by hand, and ranges of least error, each end for itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.graph.ir import QParams
from export.quantise.calibrate import TensorStats, activation_qparams, int8_range, weight_qparams


def stats(values: np.ndarray) -> TensorStats:
    sample = values.astype(np.float32)
    return TensorStats(float(sample.min()), float(sample.max()), np.ones(1), np.zeros(1), sample)


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_range_has_a_larger_error_than_the_observed_one(symmetric: bool) -> None:
    generator = np.random.default_rng(1)
    for heavy in (1.0, 3.0):
        values = np.sign(generator.normal(size=3000)) * np.abs(generator.normal(size=3000)) ** heavy
        values[values < -1] = -1
        wide, own = (activation_qparams(stats(values), symmetric, name) for name in ("minmax", "mse"))
        errors = [float(np.square(grid.rounded(values) - values).mean()) for grid in (wide, own)]
        assert errors[1] <= errors[0] * (1 + 1e-3)


def test_a_short_end_is_kept_where_the_long_one_is_cut() -> None:
    # as after GELU: nothing below -0.17, and a long tail above
    values = np.concatenate([np.full(20000, -0.17), np.random.default_rng(0).exponential(size=20000), [30.0]])
    grid = activation_qparams(stats(values), False, "mse")
    assert 255 * grid.scale[0] < 28
    assert grid.rounded(np.array([-0.17]))[0] == pytest.approx(-0.17, abs=grid.scale[0] / 1.9)


def test_stored_and_rounded_by_hand() -> None:
    grid = QParams((0.5,), 10)
    assert grid.stored(np.array([0.0, 1.0, 1.2, -100.0, 100.0])).tolist() == [10, 12, 12, -128, 127]
    assert grid.rounded(np.array([1.2, 100.0])).tolist() == [1.0, 58.5]
    by_row = QParams((1.0, 2.0), 0, "int8", 0)
    assert by_row.stored(np.array([[3.0, 4.0], [3.9, -8.0]])).tolist() == [[3, 4], [2, -4]]


@given(
    st.floats(-100, 0, allow_nan=False),
    st.floats(0, 100, allow_nan=False),
    st.sampled_from(["minmax", "mse"]),
    st.booleans(),
)
def test_every_grid_holds_zero_exactly_and_its_range_nearly(
    low: float, high: float, ranges: str, symmetric: bool
) -> None:
    values = np.linspace(low, high, 200, dtype=np.float32)
    grid = activation_qparams(TensorStats(low, high, np.ones(1), np.zeros(1), values), symmetric, ranges)
    assert grid.rounded(np.zeros(1))[0] == 0.0
    assert not symmetric or grid.zero_point == 0
    widest = int8_range(min(low, 0.0), max(high, 0.0), symmetric)
    # evenly spread values leave nothing to cut off
    assert grid.scale[0] <= widest.scale[0] * (1 + 1e-9)
    error = np.abs(widest.rounded(values) - values)
    assert error.max() <= widest.scale[0] * 1.01


def test_ranges_by_error_cut_off_a_lone_outlier() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=20000), [30.0]]).astype(np.float32)
    stats = TensorStats(float(values.min()), 30.0, np.ones(1), np.zeros(1), values)
    wide, narrow = (activation_qparams(stats, False, ranges) for ranges in ("minmax", "mse"))
    assert narrow.scale[0] < wide.scale[0]
    errors = [float(np.square(grid.rounded(values) - values).mean()) for grid in (wide, narrow)]
    assert errors[1] < errors[0]
    assert activation_qparams(stats, False, "percentile").scale[0] < wide.scale[0] / 3


def test_weights_have_a_scale_for_every_output() -> None:
    weight = np.array([[1.0, -2.0], [0.5, 0.25]])
    assert weight_qparams(weight).scale == pytest.approx((2 / 127, 0.5 / 127))
    assert weight_qparams(weight, None).scale == pytest.approx((2 / 127,))
