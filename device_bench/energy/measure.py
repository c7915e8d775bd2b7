"""Measures the energy of an inference: idle power first, then windows of back-to-back runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module

from device_bench.clock import Clock
from device_bench.documents.figures import Energy
from device_bench.energy import SOURCES
from runtime import MeasurementError, PocketVitError, Progress, silent

from .carbon import Grid, find_grid, with_grid
from .source import EnergySource, Importer, NoSource, SourceError, Surroundings

WINDOW_S = 1.0
"""Default of the least length of a window, s."""

UPDATES = 20
"""Least number of updates of a source within a window; the ends then err by at most about 5 %."""


def find_source(target: str = "cpu", surroundings: Surroundings | None = None) -> EnergySource | NoSource:
    """Returns the first of ``SOURCES`` that this machine has for a target, or the reason why it has none.

    Sources that measure come before those that estimate.

    An estimate's ``remark`` gives the reason why nothing was measured.

    Args:
        target: ``cpu``, ``cuda`` or ``cuda:N``, of this machine.
        surroundings: the machine; by default this one.
    """
    wanted = re.fullmatch(r"(cpu|cuda)(?:(?<=cuda):(\d+))?", target, re.ASCII)
    if wanted is None:
        return NoSource(f"The energy of target {target} cannot be read from this machine.")
    around = replace(surroundings or Surroundings(), gpu=int(wanted[2] or 0))
    reasons: dict[str, str] = {}
    for source in sorted(SOURCES.values(), key=lambda own: own.tier == "estimated"):
        if source.target != wanted[1] or not source.suits(around):
            continue
        found = source.find(replace(around, remark=_missing(reasons)))
        if not isinstance(found, NoSource):
            return found
        reasons[source.tier] = found.reason
    return NoSource(_missing(reasons) or f"There is no kind of energy source for {wanted[1]}.")


def _missing(reasons: Mapping[str, str]) -> str | None:
    return " ".join(f"Not {tier}. {reason}" for tier, reason in reasons.items()) or None


def measure_energy(
    run: Callable[[], object],
    images_per_run: int,
    source: EnergySource | NoSource,
    *,
    country: str | None = None,
    window_s: float | None = None,
    windows: int = 3,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    progress: Progress = silent,
    importer: Importer = import_module,
) -> Energy:
    """Measures the energy of ``run``: one warm-up, idle power, then windows of back-to-back runs.

    If the source fails, the energy is unavailable, with the reason.

    Args:
        run: one inference, which returns when its work is done, on a GPU too.
        images_per_run: images of each call, at least 1.
        source: result of ``find_source``.
        country: country of the electricity grid, ISO 3166 alpha-3.
        window_s: least length of each window, s; by default the longer of ``WINDOW_S`` and ``UPDATES`` updates of
            the source.
        windows: number of windows.
        clock: a monotonic clock in nanoseconds.
        sleep: waits for some seconds.
        progress: reports the windows that are done.
        importer: imports codecarbon's modules.

    Raises:
        MeasurementError: a number is out of range, the country is unknown, ``run`` fails, or the clock stands still.
    """
    if images_per_run < 1 or windows < 1:
        raise MeasurementError("Images and windows must be positive", got=f"{images_per_run} and {windows}")
    grid = find_grid(country, importer=importer)
    if isinstance(source, NoSource):
        return _unavailable(source.reason, grid)
    seconds = _seconds(source, window_s)
    _run(run)
    drawn: list[tuple[float, float, int]] = []
    try:
        source.start()
        try:
            idle_j, idle_s, _ = _window(source, clock, lambda: sleep(seconds), 0.0)
            progress("energy", 1, windows + 1)
            for done in range(windows):
                drawn.append(_window(source, clock, lambda: _run(run), seconds))
                progress("energy", done + 2, windows + 1)
        finally:
            source.stop()
        _check_moved(drawn)
    except SourceError as error:
        return _unavailable(f"{source.name}: {error}", grid)
    joules, lengths, runs = zip(*drawn, strict=True)
    energy = Energy(
        source.tier,
        source=source.name,
        joules=joules,
        window_s=lengths,
        images=tuple(count * images_per_run for count in runs),
        idle_w=idle_j / idle_s,
        reason=source.remark,
    )
    return with_grid(energy, grid)


def _seconds(source: EnergySource, window_s: float | None) -> float:
    least = UPDATES * source.resolution_s
    if window_s is None:
        return max(WINDOW_S, least)
    if not least <= window_s < float("inf"):
        raise MeasurementError(
            f"A window is too short for {source.name}", expected=f"{least:g} s or more", got=f"{window_s:g} s"
        )
    return window_s


def _window(source: EnergySource, clock: Clock, do: Callable[[], None], seconds: float) -> tuple[float, float, int]:
    """Returns joules, seconds and calls of ``do`` of one window; the time is taken after each reading."""
    before_j, start = source.read_j(), clock()
    calls, elapsed_ns = 0, 0
    while calls == 0 or elapsed_ns * 1e-9 < seconds:
        do()
        calls += 1
        before_ns, elapsed_ns = elapsed_ns, clock() - start
        if elapsed_ns < before_ns:
            raise MeasurementError("The clock ran backwards", fix="Use a monotonic clock")
    after_j = source.read_j()
    elapsed_s = (clock() - start) * 1e-9
    if elapsed_s <= 0:
        raise MeasurementError("The clock stood still", fix="Use a monotonic clock")
    return after_j - before_j, elapsed_s, calls


def _run(run: Callable[[], object]) -> None:
    try:
        run()
    except PocketVitError:
        raise
    except Exception as error:  # engines raise what they like
        raise MeasurementError("The file failed while its energy was measured", got=error) from error


def _check_moved(drawn: list[tuple[float, float, int]]) -> None:
    for joules, seconds, _ in drawn:
        if not joules > 0:
            raise SourceError(f"It counted nothing in a window of {seconds:g} s of work")


def _unavailable(reason: str, grid: Grid) -> Energy:
    return with_grid(Energy("unavailable", reason=reason), grid)
