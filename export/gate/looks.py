"""The numbers of images at which a file is judged, and the critical value that keeps the level over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

MOST_IMAGES = 3000
"""Most images that are added to tell whether a file may be released."""

LEVEL = 0.05
"""Probability of each one-sided error over all looks together."""

_CLOSE = 1.5
_CELLS = 240
_WIDEST = 5.0
_HALVINGS = 18


def planned_looks(first: int, most: int) -> tuple[int, ...]:
    """Returns at how many images a file is judged: ``first``, and then twice as many each time up to ``most``.

    >>> planned_looks(365, 3000), planned_looks(360, 360)
    ((365, 750, 1500, 3000), (360,))

    Args:
        first: number of images of the first look, at least 1.
        most: number of images of the last look; where it is not above ``first`` there is one look.
    """
    looks, size = [], most
    while size > first * _CLOSE:
        looks.append(size)
        size //= 2
    if not looks and most > first:
        return (most,)
    return (first, *reversed(looks))


@lru_cache(maxsize=64)
def critical_value(looks: Sequence[int], level: float = LEVEL) -> float:
    """Returns the critical value that a standard normal statistic exceeds at any of several looks with ``level``.

    It is the same at every look (Pocock's boundary). Each look keeps the images of the looks before, so the statistics
    depend on each other; their joint distribution is integrated look by look. One look has the usual value.

    >>> round(critical_value((365,)), 3), round(critical_value((365, 750, 1500, 3000)), 2)
    (1.645, 2.12)

    Args:
        looks: number of images at each look, rising.
        level: probability of a one-sided error over all looks, 0..0.5.

    Ref: Pocock 1977, "Group sequential methods in the design and analysis of clinical trials", Biometrika 64; Armitage,
    McPherson and Rowe 1969, "Repeated significance tests on accumulating data", equation 2.
    """
    low, high = 0.0, _WIDEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _exceeds(looks, middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _exceeds(looks: Sequence[int], z: float) -> float:
    """Returns the probability that the statistic exceeds ``z`` at one of ``looks``.

    The sum of the images' values is a random walk that stops above ``z`` standard deviations. The walk's density is
    kept on a grid below that bound.
    """
    stopped = float(ndtr(-z))
    points = _cells(looks[0], z)
    mass = _step(points, np.zeros(1), np.ones(1), looks[0])
    for before, now in pairwise(looks):
        bound = z * np.sqrt(now)
        stopped += float((mass * ndtr((points - bound) / np.sqrt(now - before))).sum())
        after = _cells(now, z)
        points, mass = after, _step(after, points, mass, now - before)
    return stopped


def _cells(images: int, z: float) -> npt.NDArray[np.float64]:
    """Returns the middles of cells from far below zero up to the bound."""
    edges = np.linspace(-6 * np.sqrt(images), z * np.sqrt(images), _CELLS + 1)
    return (edges[1:] + edges[:-1]) / 2


def _step(
    points: npt.NDArray[np.float64], before: npt.NDArray[np.float64], mass: npt.NDArray[np.float64], images: int
) -> npt.NDArray[np.float64]:
    """Returns the mass of each cell of ``points`` after ``images`` more images, from mass at points ``before``."""
    half, spread = (points[1] - points[0]) / 2, np.sqrt(images)
    upper = ndtr((points[:, None] + half - before) / spread)
    lower = ndtr((points[:, None] - half - before) / spread)
    found: npt.NDArray[np.float64] = (upper - lower) @ mass
    return found
