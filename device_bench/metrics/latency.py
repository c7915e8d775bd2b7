"""Latency of one run, measured turn by turn with the other files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from device_bench import format
from device_bench.columns import Cell, split_columns
from device_bench.timing.stats import percentile

from .base import REFERENCE, Measured, Metric, Number, column, held


def conditions(measured: Sequence[Measured]) -> str:
    """Returns the batch sizes and threads of latencies in words."""
    batches = format.listed([str(batch) for batch in sorted({own.file.batch for own in measured})])
    threads = sorted({own.file.threads for own in measured})
    words = "1 thread" if threads == [1] else f"{format.listed([str(number) for number in threads])} threads"
    return f"at batch {batches}, {words}"


def _percentile(q: int) -> Callable[[Measured], Any]:
    return held("latency", lambda own: percentile(own.values, q))


def _warmup(own: Measured) -> str:
    return f"after {format.plural(len(own.file.latency.warmup_values), 'warm-up')}" if own.file.latency else ""


def _speedup(own: Measured) -> Any:
    if own.file.file == REFERENCE and own.file.latency:
        return Cell("1×", "(reference)", joined=True)  # noqa: RUF001
    return own.speedup


LATENCY = Metric(
    name="latency",
    title="latency and speed-up",
    optional=False,
    section="Speed",
    part="Start and latency",
    note=lambda measured: f"Latencies are {conditions(measured)}.",
    columns=(
        column(
            "Runs",
            held("latency", lambda own: len(own.values)),
            text=format.whole,
            detail=_warmup,
            short="runs",
            views=frozenset({"bench", "report"}),
        ),
        column(
            "Median latency",
            lambda own: own.median_s,
            text=lambda found: split_columns(format.seconds_interval(found)),
            short="median [95 % CI]",
            views=frozenset({"bench", "fleet", "run", "models"}),
        ),
        column(
            "p90 latency",
            lambda own: own.p90_s,
            text=lambda found: split_columns(format.seconds_interval(found)),
            short="p90 [95 % CI]",
            views=frozenset({"bench", "run", "models"}),
        ),
        column("p50", _percentile(50), text=format.seconds, views=frozenset({"report"})),
        column("p90", _percentile(90), text=format.seconds, views=frozenset({"report"})),
        column("p99", _percentile(99), text=format.seconds, views=frozenset({"bench", "report"})),
        column(
            "Speed-up",
            _speedup,
            text=lambda found: found if isinstance(found, Cell) else split_columns(format.times_interval(found)),
            short="speed-up",
            views=frozenset({"run", "models"}),
        ),
    ),
    numbers=(
        Number(
            "latency_s",
            "latency",
            held("latency", lambda own: median(own.values)),
            format.seconds,
            cost="latency",
            axis=lambda measured: "median latency, ms",
            scale=1e-3,
        ),
    ),
)
