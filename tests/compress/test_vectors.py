"""How close vectors are: their cosines, and whether an index that was built with one model serves another one."""

from __future__ import annotations

import numpy as np
import pytest

from compress.vectors import mean_cosine, neighbours_kept, units, vectors_sqnr_db


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)


def kept_by_hand(own: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the share by sorting, image by image."""
    index, found = units(wanted), []
    for row, asked in enumerate(units(own)):
        others = [at for at in range(len(index)) if at != row]
        nearest = max(others, key=lambda at: index[row] @ index[at])
        ten = sorted(others, key=lambda at: -(asked @ index[at]))[:10]
        found.append(nearest in ten)
    return float(np.mean(found))


def test_the_cosine_is_of_directions_and_zero_for_zeros() -> None:
    vectors = drawn(5)
    assert mean_cosine(3 * vectors, vectors) == pytest.approx(1)
    assert mean_cosine(-vectors, vectors) == pytest.approx(-1)
    half = vectors.copy()
    half[:2] = 0
    assert mean_cosine(half, vectors) == pytest.approx(0.6)


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_kept_neighbours_are_those_of_an_index_of_the_other_vectors(noise: float) -> None:
    wanted = drawn(60)
    own = wanted + noise * drawn(60, 1)
    assert neighbours_kept(own, wanted) == kept_by_hand(own, wanted)


def test_an_index_that_is_built_anew_holds_the_other_models_vectors() -> None:
    wanted = drawn(60)
    mirrored = wanted * np.where(np.arange(wanted.shape[1]) % 2, 1.0, -1.0)
    assert neighbours_kept(mirrored, wanted, rebuilt=True) == 1
    assert (neighbours_kept(mirrored, wanted) or 0.0) < 0.9
    assert (neighbours_kept(drawn(60, 1), wanted, rebuilt=True) or 0.0) < 0.5


def test_an_unrelated_model_keeps_few_neighbours_and_few_images_tell_nothing() -> None:
    wanted = drawn(200)
    assert neighbours_kept(wanted, wanted) == 1
    assert (neighbours_kept(drawn(200, 1), wanted) or 0.0) < 0.2
    assert neighbours_kept(wanted[:11], wanted[:11]) is None


def test_the_signal_to_noise_of_vectors() -> None:
    vectors = drawn(8)
    assert vectors_sqnr_db(1.1 * vectors, vectors) == pytest.approx(20, abs=1e-4)
    assert vectors_sqnr_db(vectors, vectors) is None
