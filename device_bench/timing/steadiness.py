"""Notes on how far a measurement can be trusted, from its raw times and the machine's state before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_bench.machine.state import MachineState

DRIFT = 0.025
"""A change over a series that is worth a note, as a share."""

SURE = 3.0
"""Standard deviations of Kendall's statistic beyond which a trend is no chance: 3 trendless series in a thousand."""

MODE_GAP, MODE_SHARE = 0.10, 0.10
"""Least relative gap between two modes, and least share of the runs in each."""

OTHERS, STEAL = 0.10, 0.05
"""Core time that other processes, or other virtual machines, may take, in cores."""

_BLOCKS = 30
_FEWEST, _CLUSTER = 40, 8  # of fewer values, or in a mode, chance makes modes too often
_SEPARATION, _VALLEY, _SPIKES = 3.5, 0.25, 0.08
_SHORTEST_S, _TICKS_S = 0.2, 0.03  # time is counted in ticks of 10 ms, and a difference of counts is off by some
_SELF_TUNING = ("intel_pstate", "amd-pstate", "amd-pstate-epp")  # under these, powersave still reaches every clock
_PI_NOW = {0: "the voltage is too low", 1: "the clock is capped", 2: "it is throttled", 3: "it is at its heat limit"}


@dataclass(frozen=True)
class Trend:
    """How a series changed from its first value to its last.

    Attributes:
        change: change over the series, as a share of the median; negative when values fell.
        z: Kendall's statistic, in standard deviations.
    """

    change: float
    z: float

    @property
    def sure(self) -> bool:
        """Whether chance alone would hardly give such a trend."""
        return abs(self.z) > SURE


@dataclass(frozen=True)
class Modes:
    """Two levels that a series jumps between.

    Attributes:
        low: median of the lower, in the unit of the values.
        high: median of the higher.
        high_share: share of the values near the higher level, 0..1.
    """

    low: float
    high: float
    high_share: float


def trend(values: Sequence[float]) -> Trend:
    """Returns the trend of a series: the Theil-Sen slope over it, and Kendall's test of there being one.

    Long series are first made into 30 medians of neighbours, so that spikes and short waves do not count.

    Ref: Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968.

    >>> trend([1.0, 1.0, 1.0, 1.0]).change
    0.0

    Args:
        values: positive, in the order they were taken.
    """
    blocks = [float(np.median(part)) for part in np.array_split(np.asarray(values), min(_BLOCKS, len(values)))]
    count = len(blocks)
    if count < 3:
        return Trend(0.0, 0.0)
    series = np.array(blocks)
    first, later = np.triu_indices(count, 1)
    rises = series[later] - series[first]
    slope = float(np.median(rises / (later - first)))
    _, ties = np.unique(series, return_counts=True)
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    score = float(np.sign(rises).sum())
    z = 0.0 if variance <= 0 else float(score - np.sign(score)) / variance**0.5
    return Trend(slope * (count - 1) / float(np.median(series)), z)


def modes(values: Sequence[float]) -> Modes | None:
    """Returns the two modes of a series, or none when it has one.

    The logarithms are split where the two parts differ most (Otsu's threshold). They are modes when both are large
    enough, when their medians differ by several times their spread, and when there is a valley between them.

    Args:
        values: positive, any order.
    """
    count = len(values)
    smallest = max(_CLUSTER, int(np.ceil(MODE_SHARE * count)))
    if count < _FEWEST:
        return None
    logs = np.sort(np.log(np.asarray(values)))
    sizes = np.arange(1, count)
    # a few far spikes would draw the threshold to themselves, and a mode is more than a few
    sums = np.cumsum(np.clip(logs, *np.quantile(logs, (_SPIKES, 1 - _SPIKES))))
    between = (sums[-1] * sizes / count - sums[:-1]) ** 2 / (sizes * (count - sizes))
    allowed = (sizes >= smallest) & (sizes <= count - smallest)
    cut = int(sizes[np.argmax(np.where(allowed, between, -1.0))])
    low, high = logs[:cut], logs[cut:]
    middle_low, middle_high = float(np.median(low)), float(np.median(high))
    gap = middle_high - middle_low
    spread = np.hypot(_spread(low), _spread(high)) / 2**0.5
    inside = np.abs(logs - (middle_low + middle_high) / 2) < gap / 6
    valley = int(inside.sum()) / min(cut, count - cut)
    if gap < np.log1p(MODE_GAP) or gap < _SEPARATION * spread or valley > _VALLEY:
        return None
    return Modes(float(np.exp(middle_low)), float(np.exp(middle_high)), (count - cut) / count)


def series_notes(values: Sequence[float], steady: bool = True) -> tuple[str, ...]:
    """Returns notes on the drift and the modes of a series of latencies.

    Args:
        values: latencies in order of time, s.
        steady: whether the warm-up before them settled.
    """
    notes = [] if steady else ["The warm-up ended at its limit, before the times had settled."]
    found, drift = modes(values), trend(values)
    if drift.sure and abs(drift.change) >= DRIFT:
        word = "slower" if drift.change > 0 else "faster"
        notes.append(f"It drifted: {abs(drift.change):.1%} {word} at the end of the measurement than at its start.")
    if found is not None:
        notes.append(
            f"The times have two modes: {found.high_share:.0%} of the runs take {found.high / found.low:.2f} times as "
            "long as the others, and a median says little between them."
        )
    return tuple(notes)


def machine_notes(before: MachineState, after: MachineState) -> tuple[str, ...]:
    """Returns notes on throttling, low clocks and other load, from the machine's state before and after."""
    return (*_throttling(before, after), *_clocks(before, after), *_company(before, after))


def _spread(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Returns the standard deviation of the bulk, by the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _throttling(before: MachineState, after: MachineState) -> list[str]:
    notes: list[str] = []
    if before.throttle_count is not None and after.throttle_count is not None:
        rise = after.throttle_count - before.throttle_count
        if rise > 0:
            notes.append(f"The processor was throttled for its heat {rise} times while it was measured.")
    if after.throttled_bits is not None:
        earlier = after.throttled_bits if before.throttled_bits is None else before.throttled_bits
        # the upper half says what happened since the board started: what is new there happened meanwhile
        bits = earlier | after.throttled_bits | (after.throttled_bits & ~earlier) >> 16
        words = [word for bit, word in _PI_NOW.items() if bits >> bit & 1]
        if words:
            notes.append(f"The board says of the time it was measured: {', '.join(words)}.")
    return notes


def _clocks(before: MachineState, after: MachineState) -> list[str]:
    notes: list[str] = []
    fastest_before, fastest = max(before.clocks_hz or (), default=0.0), max(after.clocks_hz or (), default=0.0)
    if fastest and fastest < 0.85 * fastest_before:
        notes.append(f"The clock fell from {fastest_before / 1e9:.2f} to {fastest / 1e9:.2f} GHz.")
    clocks, limits = after.clocks_hz or (), after.max_clocks_hz or ()
    if clocks and len(clocks) == len(limits):
        share, clock, limit = max((c / m, c, m) for c, m in zip(clocks, limits, strict=True) if m > 0)
        if share < 0.7:
            notes.append(f"The clock was low: {clock / 1e9:.2f} GHz of at most {limit / 1e9:.2f}.")
    if "powersave" in (after.governor or "").split(", ") and after.clock_driver not in _SELF_TUNING:
        notes.append("The frequency governor is powersave, which keeps the clock low.")
    return notes


def _company(before: MachineState, after: MachineState) -> list[str]:
    notes: list[str] = []
    seconds = _rise(before.uptime_s, after.uptime_s)
    busy, own = _rise(before.busy_s, after.busy_s), _rise(before.own_s, after.own_s)
    if seconds is None or seconds < _SHORTEST_S:
        return notes
    if busy is not None and own is not None and busy - own > OTHERS * seconds + _TICKS_S:
        notes.append(f"Other processes took {(busy - own) / seconds:.0%} of a core while it was measured.")
    steal = _rise(before.steal_s, after.steal_s)
    if steal is not None and steal > STEAL * seconds + _TICKS_S:
        notes.append(f"The hypervisor gave {steal / seconds:.0%} of a core to others while it was measured.")
    return notes


def _rise(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
