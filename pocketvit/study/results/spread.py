"""A figure over seeds: its values, their mean and their standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ONE = "One seed has no spread."


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        n: number of seeds with a value.
        mean: mean of the values; null with a reason.
        sd: standard deviation of the values, that of a sample; null with a reason.
        values: one for each seed.
        reason: why a figure is null.
    """

    n: int
    mean: float | None
    sd: float | None
    values: tuple[float, ...]
    reason: str | None = None


def spread(values: Iterable[float | None], reason: str) -> Spread:
    """Returns the mean and standard deviation of a figure over seeds.

    >>> spread([1.0, 3.0], "not measured").mean, spread([None], "not measured").reason
    (2.0, 'not measured')

    Args:
        values: one for each seed; None if unknown.
        reason: why none is known, if none is.
    """
    known = tuple(float(value) for value in values if value is not None)
    if not known:
        return Spread(0, None, None, (), reason)
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return Spread(1, mean, None, known, ONE)
    return Spread(len(known), mean, math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1)), known)
