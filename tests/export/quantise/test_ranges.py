"""Ranges of least error, each end for itself."""

from __future__ import annotations

import numpy as np
import pytest

from export.quantise.calibrate import TensorStats, activation_qparams


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
