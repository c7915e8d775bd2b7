"""Confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 0.95
_Z95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the values it comes from.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: how often such an interval holds the true value, in (0, 1).
    """

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


def share_interval(share: float, count: int) -> Interval:
    """Returns a share with its 95 % Wilson interval.

    >>> found = share_interval(0.5, 100)
    >>> round(found.low, 3), round(found.high, 3)
    (0.404, 0.596)

    Args:
        share: the observed share, 0..1.
        count: of how many trials, at least 1.

    Ref:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    square = _Z95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
