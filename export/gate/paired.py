"""Confidence bounds of a share, and of the difference of two shares that were counted on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable

_HALVINGS = 60


def share_bounds(successes: int, images: int, z: float) -> tuple[float, float]:
    """Returns Wilson's lower and upper confidence bound of a share, 0..1.

    >>> [round(bound, 3) for bound in share_bounds(98, 100, 1.96)]
    [0.93, 0.994]

    Args:
        successes: number of images counted, 0 to ``images``.
        images: number of images, at least 1.
        z: critical value of a standard normal variable, such as 1.645 for one-sided 95 %.

    Ref: Wilson 1927, "Probable inference, the law of succession, and statistical inference", p. 210.
    """
    share, weight = successes / images, z * z / images
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / images + weight / (4 * images)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def loss_bounds(lost: int, gained: int, images: int, z: float) -> tuple[float, float]:
    """Returns Tango's lower and upper confidence bound of the loss of accuracy between two paired classifiers.

    The loss is the share of images that the first one alone answers right less the share that the second one alone
    answers right, -1..1. The score interval keeps its level for few images and for few different answers, where the
    interval of the normal approximation is too narrow.

    >>> [round(100 * bound, 2) for bound in loss_bounds(5, 2, 365, 1.645)]
    [-0.45, 2.31]

    Args:
        lost: images that the first one alone answers right.
        gained: images that the second one alone answers right.
        images: number of images, at least ``lost + gained`` and at least 1.
        z: critical value of a standard normal variable, such as 1.645 for one-sided 95 %.

    Ref: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17, equations 10 to 12.
    """
    observed = (lost - gained) / images
    low = _crossing(lambda loss: _score(lost, gained, images, loss) > z, -1.0, observed)
    high = _crossing(lambda loss: _score(lost, gained, images, loss) > -z, observed, 1.0)
    return low, high


def _crossing(above: Callable[[float], bool], low: float, high: float) -> float:
    """Returns where ``above``, true for small values and false for large ones, changes between ``low`` and ``high``."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if above(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(lost: int, gained: int, images: int, loss: float) -> float:
    """Returns the score statistic for a true loss of ``loss``; it falls as ``loss`` rises."""
    excess = lost - gained - images * loss
    # the most likely share of images that only the second one answers right if the loss were that
    a = 2 * images
    b = -lost - gained + (2 * images - lost + gained) * loss
    c = -gained * loss * (1 - loss)
    gained_share = max(0.0, (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a))
    variance = images * (2 * gained_share + loss * (1 - loss))
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)
