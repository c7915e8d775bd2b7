from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data.splits import stratified


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 200), st.integers(0, 5))
def test_every_class_has_its_share(sizes: list[int], count: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    indices = np.flatnonzero(labels >= 0).astype(np.int64)
    chosen = stratified(labels, indices, count, np.random.default_rng(seed))
    assert len(chosen) == len(set(chosen)) == min(count, len(indices))
    found = np.bincount(labels[chosen], minlength=len(sizes))
    if count >= len(sizes):
        assert found.min() >= 1
    else:
        assert found.max() == 1
    if count < len(indices) and count >= len(sizes) and min(sizes) * count >= len(indices):
        wanted = np.array(sizes) * count / len(indices)
        assert np.abs(found - wanted).max() <= 1
    assert np.array_equal(chosen, stratified(labels, indices, count, np.random.default_rng(seed)))


@pytest.mark.parametrize("labels", [np.repeat(np.arange(10), 100), np.tile(np.arange(10), 100)])
def test_sorted_and_interleaved_labels_are_all_seen(labels: np.ndarray) -> None:
    chosen = stratified(labels, np.arange(1000), 100, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [10] * 10
