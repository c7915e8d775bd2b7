"""How close the vectors of one model are to those of another one: their directions, and who is next to whom."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

NEAREST = 10
"""Number of nearest images, or patches, among which a neighbour has to be."""

MOST_PATCHES = 2000
"""Most patches of all grids whose neighbours are looked for: a share has a standard error of at most 1.1 points."""

Vectors = npt.NDArray[np.floating]

_TINY = 1e-30


def mean_cosine(own: Vectors, wanted: Vectors) -> float:
    """Returns the mean cosine of two sets of vectors, one by one, -1..1; a vector of zeros has the cosine 0.

    Args:
        own: ``(N, D)``, or grids of patches ``(N, rows, columns, D)``; N at least 1.
        wanted: of the same shape.
    """
    return float((units(own) * units(wanted)).sum(axis=-1).mean())


def neighbours_kept(own: Vectors, wanted: Vectors, nearest: int = NEAREST, *, rebuilt: bool = False) -> float | None:
    """Returns the share of rows whose nearest neighbour is still among the nearest ones, 0..1.

    The nearest neighbour of a row is the other row of ``wanted`` with the greatest cosine. It is kept if at most
    ``nearest - 1`` other rows of the index have a greater cosine with the row of ``own``. The index is made of
    ``wanted``: that is how an index that was built with one model serves the vectors of another one. Of grids, the
    rows are at most ``MOST_PATCHES`` random patches, and the other rows are those of other images.

    Args:
        own: vectors that are looked up, ``(N, D)``, or grids of patches ``(N, rows, columns, D)``.
        wanted: vectors of the index, of the same shape.
        nearest: number of rows among which the neighbour has to be.
        rebuilt: whether the index is made of ``own``, as if it were built anew with the other model.

    Returns:
        The share; None with fewer than ``nearest + 1`` rows of others, where too few rows could be wrong.
    """
    images = np.arange(len(own)).repeat(math.prod(own.shape[1:-1]))
    own, wanted = own.reshape(-1, own.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
    if len(images) > MOST_PATCHES and len(images) > images[-1] + 1:
        drawn = np.sort(np.random.default_rng(0).permutation(len(images))[:MOST_PATCHES])
        images, own, wanted = images[drawn], own[drawn], wanted[drawn]
    if len(images) - np.bincount(images).max() < nearest + 1:
        return None
    whole, looked_up, same = units(wanted), units(own), images[:, None] == images
    alike, asked = whole @ whole.T, looked_up @ (looked_up if rebuilt else whole).T
    alike[same] = asked[same] = -np.inf
    found = np.take_along_axis(asked, alike.argmax(axis=1)[:, None], axis=1)
    return float(((asked > found).sum(axis=1) < nearest).mean())


def vectors_sqnr_db(own: Vectors, wanted: Vectors) -> float | None:
    """Returns the energy of ``wanted`` over that of the difference, dB; None where they are identical, or zero."""
    signal = float(np.square(wanted, dtype=np.float64).sum())
    noise = float(np.square(own.astype(np.float64) - wanted).sum())
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def units(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Returns vectors ``(..., D)`` scaled to length 1, in float64; a vector of zeros stays."""
    real = vectors.astype(np.float64)
    scaled: npt.NDArray[np.float64] = real / np.maximum(np.linalg.norm(real, axis=-1, keepdims=True), _TINY)
    return scaled
