"""The wall time and the peak memory of a piece of work in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from device_bench.metrics.memory import peak_rss_bytes


@dataclass
class Spent:
    """What a piece of work took; both are 0 until it has ended.

    Attributes:
        seconds: wall time, s.
        peak_bytes: most resident memory of the process during the work, bytes, with all that it held before. Where the
            system cannot start the peak anew, it is that of the process so far.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured(reset: Path = Path("/proc/self/clear_refs")) -> Iterator[Spent]:
    """Measures the block; the figures are there when it has ended."""
    with suppress(OSError):
        reset.write_text("5")  # Linux: resets VmHWM to the memory in use
    spent, started = Spent(), time.monotonic()
    try:
        yield spent
    finally:
        spent.seconds, spent.peak_bytes = time.monotonic() - started, peak_rss_bytes()
