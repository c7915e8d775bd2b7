from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.search.tas.interpolation import interpolate_channels, interpolate_readers
from runtime import PlanError

SIZES = st.integers(1, 40)


def random_features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_cases_by_hand() -> None:
    """Windows of 6 to 4: 0-1, 1-2, 3-4, 4-5; of 3 to 5: 0, 0-1, 1, 1-2, 2."""
    six = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert interpolate_channels(six, 4).tolist() == [1.5, 3.0, 12.0, 24.0]
    assert interpolate_channels(six, 1).tolist() == [10.5]
    assert interpolate_channels(six[:3], 5).tolist() == [1.0, 1.5, 2.0, 3.0, 4.0]
    assert interpolate_channels(six[:2], 6).tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    assert torch.equal(interpolate_channels(six, 6), six)


@given(channels=SIZES, width=SIZES, seed=st.integers(0, 99))
def test_it_is_adaptive_average_pooling_over_channels(channels: int, width: int, seed: int) -> None:
    features = random_features(2, 3, channels, seed=seed)
    pooled = torch.nn.functional.adaptive_avg_pool1d(features, width)
    torch.testing.assert_close(interpolate_channels(features, width), pooled, rtol=1e-12, atol=1e-12)


@given(channels=SIZES, width=SIZES, dim=st.sampled_from([0, 1, 2, -3, -2, -1]))
def test_channels_may_run_along_any_dimension(channels: int, width: int, dim: int) -> None:
    features = random_features(2, 3, channels).movedim(-1, dim)
    moved = interpolate_channels(features.movedim(dim, -1), width).movedim(-1, dim)
    assert torch.equal(interpolate_channels(features, width, dim), moved)


@given(channels=SIZES, width=SIZES, seed=st.integers(0, 99))
def test_weights_that_read_interpolated_channels(channels: int, width: int, seed: int) -> None:
    features, weights = random_features(4, channels, seed=seed), random_features(5, width, seed=seed + 1)
    there = interpolate_channels(features, width) @ weights.T
    torch.testing.assert_close(features @ interpolate_readers(weights, channels).T, there, rtol=1e-12, atol=1e-12)
    turned = interpolate_readers(weights.T, channels, dim=0)
    torch.testing.assert_close(features @ turned, there, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "width"), [(4, 0), (4, -1), (0, 4)])
def test_no_channels_are_refused(channels: int, width: int) -> None:
    with pytest.raises(PlanError, match=f"from 1 or more to 1 or more. Got {channels} to {width}"):
        interpolate_channels(torch.zeros(2, channels), width)
