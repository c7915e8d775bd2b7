"""Percentiles of latencies and how sure of them one can be, by the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from device_bench.interval import CONFIDENCE, Interval
from runtime import MeasurementError

RESAMPLES = 2000
_CHUNK_VALUES = 1_000_000  # bounds the memory of one vectorised step to some 20 MB


def percentile(values: Sequence[float], q: float) -> float:
    """Returns the ``q``-th percentile of ``values``, in their unit, interpolating linearly between neighbours.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50)
    2.5

    Args:
        values: raw values, at least one, any order.
        q: which percentile, 0..100.

    Raises:
        MeasurementError: there is no value, one is not finite, or ``q`` is out of range.
    """
    return float(np.percentile(_checked(values), _checked_q(q)))


def bootstrap_percentile(
    values: Sequence[float],
    q: float,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the ``q``-th percentile with its percentile-bootstrap confidence interval.

    Args:
        values: raw values, ``(N,)``, any unit.
        q: which percentile, 0..100.
        confidence: confidence of the interval, in (0, 1).
        resamples: bootstrap replicates, at least 100.
        seed: seed of the resampling; the same seed gives the same interval.

    Raises:
        MeasurementError: there is no value, one is not finite, or an argument is out of range.

    Ref:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    array, q = _checked(values), _checked_q(q)
    _check_bootstrap(confidence, resamples)
    replicates = _replicates((array,), q, resamples, seed)[0]
    return _interval(float(np.percentile(array, q)), replicates, confidence)


def median_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Returns the median of ``values`` with its 95 % interval, in their unit.

    Raises:
        MeasurementError: there is no value, or one is not finite.
    """
    return bootstrap_percentile(values, 50, seed=seed)


def p90_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Returns the 90th percentile of ``values`` with its 95 % interval, in their unit.

    Raises:
        MeasurementError: there is no value, or one is not finite.
    """
    return bootstrap_percentile(values, 90, seed=seed)


def ratio_of_medians(
    numerator: Sequence[float],
    denominator: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    in_turns: bool = True,
) -> Interval:
    """Returns ``median(numerator) / median(denominator)`` with its bootstrap interval.

    Series of equal length are taken as interleaved rounds and resampled together, so that a slow
    spell of the machine, which hits both, does not count as a difference between them. Series of
    different lengths, or not taken in turns, are resampled separately.

    Args:
        numerator: raw values, ``(N,)``, in the unit of ``denominator``.
        denominator: raw values, ``(M,)``, positive.
        confidence: confidence of the interval, in (0, 1).
        resamples: bootstrap replicates, at least 100.
        seed: seed of the resampling.
        in_turns: whether series of equal length are rounds of one measurement.

    Raises:
        MeasurementError: a series is empty, not finite or not positive, or an argument is out of range.
    """
    top, bottom = _checked(numerator), _checked(denominator)
    _check_bootstrap(confidence, resamples)
    if top.min() <= 0 or bottom.min() <= 0:
        raise MeasurementError("A ratio needs positive values", got=min(float(top.min()), float(bottom.min())))
    if in_turns and len(top) == len(bottom):
        tops, bottoms = _replicates((top, bottom), 50, resamples, seed)
    else:
        (tops,), (bottoms,) = (
            _replicates((top,), 50, resamples, seed),
            _replicates((bottom,), 50, resamples, seed + 1),
        )
    return _interval(float(np.median(top) / np.median(bottom)), tops / bottoms, confidence)


def _replicates(
    series: tuple[npt.NDArray[np.float64], ...], q: float, resamples: int, seed: int
) -> list[npt.NDArray[np.float64]]:
    """Returns, per series, the percentile of each resample ``(resamples,)``; all share the drawn indices."""
    rng = np.random.default_rng(seed)
    size = len(series[0])
    step = max(1, _CHUNK_VALUES // size)
    parts: list[list[npt.NDArray[Any]]] = [[] for _ in series]
    for start in range(0, resamples, step):
        indices = rng.integers(0, size, (min(step, resamples - start), size))
        for part, values in zip(parts, series, strict=True):
            part.append(np.percentile(values[indices], q, axis=1, overwrite_input=True))
    return [np.concatenate(part) for part in parts]


def _interval(value: float, replicates: npt.NDArray[np.float64], confidence: float) -> Interval:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(replicates, (tail, 100 - tail))
    return Interval(value, float(low), float(high), confidence)


def _checked(values: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise MeasurementError("Statistics need at least one value", got=f"shape {array.shape}")
    if not np.isfinite(array).all():
        raise MeasurementError("Statistics need finite values", got=float(array[~np.isfinite(array)][0]))
    return array


def _checked_q(q: float) -> float:
    if not 0 <= q <= 100:
        raise MeasurementError("No such percentile", expected="0 to 100", got=q)
    return q


def _check_bootstrap(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise MeasurementError("confidence is out of range", expected="a number between 0 and 1", got=confidence)
    if resamples < 100:
        raise MeasurementError("Too few bootstrap replicates", expected="at least 100", got=resamples)
