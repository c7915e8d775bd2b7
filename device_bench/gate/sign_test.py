"""When paired differences are evidence enough: a sign test that may be looked at after every pair.

Rounds are timed in an order drawn by lot, so that where two files are equally fast each round's difference is as often
above zero as below, whatever the machine does meanwhile: drift, bursts and other processes change its size, not its
odds. A sign test needs no more than that, and the form used here stays valid however often it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from device_bench.interval import Interval

ALPHA = 0.01
"""The chance of a false alarm, over all looks together."""


def evidence(above: int, total: int) -> float:
    """Returns how much ``above`` of ``total`` signs speak against a median at or below the limit; 1 speaks for nothing.

    It is the likelihood ratio of "signs are above with some p > 1/2", p being uniform, to "p = 1/2". While the median
    is not above the limit it ever reaches ``1 / a`` with a chance of at most ``a`` (Ville's inequality).

    >>> round(evidence(5, 10), 2), evidence(20, 20) > 1e4
    (0.37, True)

    Args:
        above: signs above the limit, 0 to ``total``.
        total: all signs.

    Ref:
        Howard and Ramdas 2022, arXiv 1906.09712, for quantiles; the mixture is Robbins 1970's for coin flips:
        ``2^(n+1) * integral of p^k (1-p)^(n-k) over p from 1/2 to 1``.
    """
    return float(np.exp(_log_evidence(total)[above]))


@lru_cache(maxsize=4096)
def pairs_needed(total: int, alpha: float = ALPHA) -> int:
    """Returns the least number of equal signs among ``total`` whose evidence is ``1 / alpha``; more than all if none.

    >>> pairs_needed(4), pairs_needed(30)
    (5, 24)
    """
    enough = _log_evidence(total) >= -math.log(alpha)
    return int(np.argmax(enough)) if enough.any() else total + 1


@lru_cache(maxsize=4096)
def _log_evidence(total: int) -> npt.NDArray[np.float64]:
    """Returns the logarithm of the evidence of 0 to ``total`` signs: binomial sums over a binomial coefficient."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 2)))])
    above = np.arange(total + 1)
    coefficients = factorials[total] - factorials[above] - factorials[total - above]
    wider = factorials[total + 1] - factorials[above] - factorials[total + 1 - above]
    return np.asarray(np.logaddexp.accumulate(wider) - math.log(total + 1) - coefficients)


def shown_above(differences: Sequence[float], limit: float, alpha: float = ALPHA) -> bool:
    """Tells whether the median difference is shown to be above ``limit``, wrongly so with a chance of ``alpha``."""
    return sum(value > limit for value in differences) >= pairs_needed(len(differences), alpha)


def shown_below(differences: Sequence[float], limit: float, alpha: float = ALPHA) -> bool:
    """Tells whether the median difference is shown to be below ``limit``, wrongly so with a chance of ``alpha``."""
    return sum(value < limit for value in differences) >= pairs_needed(len(differences), alpha)


def ratio_interval(differences: Sequence[float], alpha: float = ALPHA) -> Interval:
    """Returns the ratio that differences of logarithms speak of, with an interval that holds at every look.

    Args:
        differences: of each round, ``log(new / base)``, at least one.
        alpha: the chance that the interval ever leaves out the true median.

    Returns:
        ``exp`` of the median and of the ends; 0 and infinity where there are too few rounds to say.
    """
    ordered = sorted(differences)
    count = len(ordered)
    enough = pairs_needed(count, alpha / 2)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    if enough > count:
        return Interval(math.exp(middle), 0.0, math.inf, 1 - alpha)
    return Interval(math.exp(middle), math.exp(ordered[count - enough]), math.exp(ordered[enough - 1]), 1 - alpha)


def detectable(
    differences: Sequence[float], rounds: int, limit: float, alpha: float = ALPHA, power: float = 1.645
) -> float | None:
    """Returns the least slowdown that ``rounds`` rounds as noisy as these would show in 95 % of cases.

    Args:
        differences: of each round, ``log(new / base)``; their spread is the noise.
        rounds: how many there would be time for.
        limit: that a slowdown must be shown to exceed, as a logarithm.
        alpha: the chance of a false alarm.
        power: standard deviations of the count of signs to spare; 1.645 leaves 5 % of misses.

    Returns:
        The slowdown as a share, 0.05 for 5 %; None where so few rounds cannot show any.
    """
    ordered = sorted(differences)
    count, enough = len(ordered), pairs_needed(rounds, alpha)
    if enough > rounds or not count:
        return None
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    # moved up until this round just passes the limit, it and all above it do
    above = [value for rank, value in enumerate(ordered) if _sure(rounds, (count - rank) / count, power) >= enough]
    if not above:
        return None
    return math.exp(limit - (max(above) - middle)) - 1


def _sure(rounds: int, share: float, power: float) -> float:
    """Returns a number of signs that is reached nearly always when each is above with chance ``share``."""
    return rounds * share - power * math.sqrt(rounds * share * (1 - share))
