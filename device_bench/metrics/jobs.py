"""The jobs of a measuring process: requests of JSON values, done by the functions that measure.

Each job imports what it needs: the memory of a file is measured beside as little as possible.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from device_bench.documents.measurement import Sampling
from runtime import MeasurementError, decode
from runtime.worker.child import Reporter


def start_file(reporter: Reporter, file: str, threads: int) -> Any:
    """Returns the ``Start`` of a file in this process."""
    from .startup import start

    reporter.turn(0)
    return start(Path(file), threads)


def time_many(reporter: Reporter, files: list[str], threads: int, rounds: int) -> Any:
    """Returns the latencies of many files, s; see ``time_files``."""
    from device_bench.timing.turns import time_files

    return time_files([Path(file) for file in files], threads=threads, rounds=rounds, mark=reporter.turn)


def time_latency(reporter: Reporter, files: list[str], threads: int, sampling: dict[str, Any], seed: int) -> Any:
    """Returns the ``Turns`` of files; see ``time_in_turns``."""
    from device_bench.timing.turns import time_in_turns

    return time_in_turns(
        [Path(file) for file in files],
        threads=threads,
        sampling=decode(Sampling, sampling, "the request"),
        seed=seed,
        progress=reporter.progress,
        mark=reporter.turn,
    )


def time_peaks(reporter: Reporter, threads: int, arithmetics: list[Any]) -> Any:
    """Returns the peak arithmetic of this machine; see ``measure_peaks``."""
    from .peaks import measure_peaks

    return measure_peaks(threads, tuple(arithmetics), sign=lambda: reporter.turn(0))


def measure_metric(reporter: Reporter, metric: str, file: str, threads: int, seed: int, options: dict[str, Any]) -> Any:
    """Returns the value of one metric of a file.

    Raises:
        MeasurementError: the metric is not measured by itself.
    """
    from device_bench.metrics import METRICS

    from .base import MetricTask

    measure = METRICS[metric].measure
    if measure is None:
        raise MeasurementError(f"{metric} is not measured in a process of its own")
    return measure(MetricTask(Path(file), threads, seed, options, reporter.progress, lambda: reporter.turn(0)))
