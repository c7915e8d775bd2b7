"""Times files in a fresh process and watches the machine meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_bench.machine.state import machine_state
from device_bench.worker.isolated import run_isolated
from runtime import decode

from .stats import percentile
from .steadiness import machine_notes


@dataclass(frozen=True)
class Samples:
    """Latencies of files that took turns.

    Attributes:
        seconds: every timed run of each file in order, s.
        notes: sentences about what disturbed the machine; empty where nothing did.
    """

    seconds: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = ()


def time_isolated(
    files: Sequence[Path], *, threads: int = 1, rounds: int = 12, percent: float = 25
) -> tuple[float, ...]:
    """Returns a low percentile of the latency of each of many small files, s; see ``sample_isolated``.

    With few runs, the median still holds much of the other work of the machine.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        threads: threads of each engine, at least 1.
        rounds: timed runs of each file.
        percent: which percentile, 0..100.

    Raises:
        MeasurementError: ``percent`` is out of range; and whatever ``sample_isolated`` raises.
    """
    samples = sample_isolated(files, threads=threads, rounds=rounds)
    return tuple(percentile(own, percent) for own in samples.seconds)


def sample_isolated(files: Sequence[Path], *, threads: int = 1, rounds: int = 12) -> Samples:
    """Runs ``time_files`` in a fresh process.

    Raises:
        MeasurementError: the process crashed or hung; and whatever ``time_files`` raises.
    """
    request = {"files": [str(path.resolve()) for path in files], "threads": threads, "rounds": rounds}
    before = machine_state()
    result = run_isolated("time", request).checked()
    seconds = decode(tuple[tuple[float, ...], ...], result, "the times")
    return Samples(seconds, machine_notes(before, machine_state()))
