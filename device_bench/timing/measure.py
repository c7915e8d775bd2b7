"""The measuring loop: several things timed turn by turn, so that their ratios survive a noisy machine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from device_bench.clock import Clock
from device_bench.documents.measurement import Measurement, Sampling
from runtime import MeasurementError, PocketVitError, Progress, silent

from .steadiness import DRIFT, trend

WINDOW = 5
"""Runs in each of the two windows whose medians show whether a warm-up is steady."""

STEADY = 0.05
"""A series is steady when those medians differ by at most this share of the smaller."""

TREND_WINDOWS = 4
"""Windows over which a slow drift, too small to be seen between two of them, is looked for."""

DOUBT = 1.5
"""Standard deviations of Kendall's statistic beyond which a warm-up may still have a trend."""

SETTLE_RUNS, SETTLE_S = 8, 10e-3
"""Runs that are not timed at the beginning of a turn, once another model has used the caches: so many, or fewer where
so much time has passed, s, but one at least. After that a model runs as one does that runs again and again."""

OnTurn = Callable[[str], None]


def no_turn(name: str) -> None:
    """Tells nobody whose turn it is."""


def measure_interleaved(
    runners: Mapping[str, Callable[[], object]],
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
    progress: Progress = silent,
    turn: OnTurn = no_turn,
) -> tuple[Measurement, ...]:
    """Times each runner once per round, in an order shuffled anew for each round.

    Whatever slows the machine for a while then slows all runners alike, and none profits from always
    following the same other one. Of several runners, each runs some times untimed before it is timed (see
    ``SETTLE_RUNS``). Warm-up rounds come first, and end when every series is steady (see ``is_steady``) or
    after ``sampling.max_warmup`` of them.

    Args:
        runners: functions to time, by name; each call is one sample.
        sampling: duration of the measurement; by default ``Sampling()``.
        seed: seed of the order within the rounds.
        clock: a monotonic clock in nanoseconds.
        progress: called with the rounds done.
        turn: called with a runner's name just before it runs.

    Returns:
        The latency of each runner, s, in the order of ``runners``; all have as many values.

    Raises:
        MeasurementError: there is nothing to measure, a runner fails, or the clock runs backwards.
    """
    if not runners:
        raise MeasurementError("There is nothing to measure", expected="at least one file")
    sampling = sampling or Sampling()
    order = random.Random(seed)
    names = list(runners)

    warmups: dict[str, list[float]] = {name: [] for name in names}
    steady = dict.fromkeys(names, False)
    for done in range(sampling.max_warmup):
        _round(runners, names, order, clock, warmups, turn)
        progress("warm-up", done + 1, sampling.max_warmup)
        steady = {name: is_steady(series) for name, series in warmups.items()}
        if all(steady.values()):
            break
    progress("warm-up", sampling.max_warmup, sampling.max_warmup)

    values: dict[str, list[float]] = {name: [] for name in names}
    budget_s, start = sampling.seconds * len(names), clock()
    for done in range(1, sampling.max_samples + 1):
        _round(runners, names, order, clock, values, turn)
        spent_s = (clock() - start) * 1e-9
        progress("measure", done, _expected_rounds(sampling, done, spent_s, budget_s))
        if done >= sampling.min_samples and spent_s >= budget_s:
            break
    return tuple(Measurement("latency", "s", tuple(values[name]), tuple(warmups[name]), steady[name]) for name in names)


def is_steady(series: Sequence[float]) -> bool:
    """Tells whether a series has settled.

    The newest ``WINDOW`` values have a median within ``STEADY`` of that of the ``WINDOW`` before them, and over the
    newest ``TREND_WINDOWS`` windows no likely trend adds up to more than ``DRIFT``.

    >>> is_steady([9.0, 5.0, 3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    False
    >>> is_steady([1.0] * 10)
    True
    """
    if len(series) < 2 * WINDOW:
        return False
    before, newest = median(series[-2 * WINDOW : -WINDOW]), median(series[-WINDOW:])
    if abs(newest - before) > STEADY * min(newest, before):
        return False
    drift = trend(series[-TREND_WINDOWS * WINDOW :])
    # a doubt is enough here, and costs a few rounds more
    return abs(drift.change) <= DRIFT or abs(drift.z) <= DOUBT


def _round(
    runners: Mapping[str, Callable[[], object]],
    names: Sequence[str],
    order: random.Random,
    clock: Clock,
    into: dict[str, list[float]],
    turn: OnTurn,
) -> None:
    for name in order.sample(names, len(names)):
        turn(name)
        into[name].append(_time(name, runners[name], clock, alone=len(names) == 1))


def settle(runner: Callable[[], object], clock: Clock = time.perf_counter_ns) -> None:
    """Runs it until near caches and predictors hold what it needs: 8 times, or for 10 ms, once at least.

    How long that takes is shown by ``benchmarks/settling.py``.

    Args:
        runner: the model.
        clock: a monotonic clock in nanoseconds.
    """
    start = clock()
    for _ in range(SETTLE_RUNS):
        runner()
        if (clock() - start) * 1e-9 >= SETTLE_S:
            return


def _time(name: str, runner: Callable[[], object], clock: Clock, *, alone: bool) -> float:
    try:
        if not alone:
            settle(runner, clock)
        start = clock()
        runner()
        end = clock()
    except PocketVitError:
        raise
    except Exception as error:  # engines raise what they like
        raise MeasurementError(f"{name} failed while it was measured", got=error) from error
    if end < start:
        raise MeasurementError("The clock ran backwards", fix="Use a monotonic clock")
    return (end - start) * 1e-9


def _expected_rounds(sampling: Sampling, done: int, spent_s: float, budget_s: float) -> int:
    """Estimates from the pace so far how many rounds there will be."""
    affordable = sampling.max_samples if spent_s <= 0 else int(done * budget_s / spent_s)
    return max(done, min(sampling.max_samples, max(sampling.min_samples, affordable)))
