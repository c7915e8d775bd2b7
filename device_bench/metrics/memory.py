"""Resident memory of this process, now and at its most."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from device_bench import format

from .base import Measured, Metric, column


def peak_rss_bytes(proc: Path = Path("/proc/self")) -> int:
    """Returns the most resident memory this process ever had, bytes.

    Linux's ``ru_maxrss`` outlives ``exec``, so a child of a big process would report the parent's peak;
    ``VmHWM`` starts anew and comes first.

    Args:
        proc: this process's folder in procfs.
    """
    from_proc = _status_bytes(proc, "VmHWM")
    return from_proc if from_proc is not None else _ru_maxrss_bytes()


def current_rss_bytes(proc: Path = Path("/proc/self")) -> int:
    """Returns the resident memory of this process now, bytes; its peak where there is no procfs.

    Args:
        proc: this process's folder in procfs.
    """
    from_proc = _status_bytes(proc, "VmRSS")
    return from_proc if from_proc is not None else _ru_maxrss_bytes()


def maxrss_to_bytes(maxrss: int, platform: str) -> int:
    """Returns ``ru_maxrss`` in bytes: macOS counts bytes, every other system kB.

    >>> maxrss_to_bytes(10, "linux"), maxrss_to_bytes(10, "darwin")
    (10240, 10)
    """
    return maxrss if platform == "darwin" else maxrss * 1024


def _status_bytes(proc: Path, key: str) -> int | None:
    try:
        status = (proc / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{key}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _ru_maxrss_bytes() -> int:
    import resource

    return maxrss_to_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)


def _remarks(measured: Sequence[Measured]) -> Iterable[tuple[str, str]]:
    for own in measured:
        if own.file.memory.peak_rss_bytes is None and not own.bench.emulated:
            yield own.file.file, f"no peak memory, {own.file.memory.reason}"


MEMORY = Metric(
    name="memory",
    title="peak memory",
    optional=False,
    columns=(
        column(
            "Peak memory",
            lambda own: own.file.memory.peak_rss_bytes,
            text=format.size,
            short="memory",
            views=frozenset({"bench", "fleet", "run", "models"}),
        ),
    ),
    section=None,
    remarks=_remarks,
)
