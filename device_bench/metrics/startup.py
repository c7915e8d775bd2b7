"""Start and peak memory of one file, each time in a fresh process; what crashes or hangs there does no harm."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median, median_low

from device_bench import format
from device_bench.documents.figures import MemoryUse, Startup
from device_bench.timing.inputs import random_input
from device_bench.worker.isolated import RunJob, run_isolated
from runtime import decode, open_engine
from runtime.engines import engine_of
from runtime.formats import is_model_file
from runtime.worker.parent import SILENCE_S

from .base import Measured, Metric, column, held
from .memory import current_rss_bytes, peak_rss_bytes

REPEATS = 3
_RUNS = 3


@dataclass(frozen=True)
class ProcessStart:
    """One start of a file.

    Attributes:
        load_s: time from the open file to an engine that can run, s.
        first_run_s: time of the first inference, s.
        peak_rss_bytes: peak resident memory of the process.
        rss_before_bytes: resident memory before engine and file were loaded.
        engine: name of the engine.
        engine_version: version of that engine.
        batch: images in each run.
    """

    load_s: float
    first_run_s: float
    peak_rss_bytes: int
    rss_before_bytes: int
    engine: str
    engine_version: str
    batch: int


@dataclass(frozen=True)
class Starts:
    """The result of several starts of a file, or the reason for its failure.

    Attributes:
        startup: times of all starts; None when one failed.
        memory: median memory of the starts.
        failure: reason of a failure; None without one.
        engine: name of the engine; empty after a failure.
        engine_version: version of that engine.
        batch: images in each run.
    """

    startup: Startup | None
    memory: MemoryUse
    failure: str | None = None
    engine: str = ""
    engine_version: str = ""
    batch: int = 1


def start(file: Path, threads: int = 1, *, clock: Callable[[], int] = time.perf_counter_ns) -> ProcessStart:
    """Loads ``file`` and runs it a few times, in this process, which should be a fresh one.

    Args:
        file: the ``.onnx`` or ``.tflite`` file.
        threads: threads of the engine, at least 1.
        clock: a monotonic clock in nanoseconds.

    Raises:
        ArtifactError: the file cannot be loaded, or its input has no fixed size.
        MissingExtraError: the engine is not installed.
    """
    before = current_rss_bytes()
    if is_model_file(file):
        _import_engine(file)
    started = clock()
    engine = open_engine(file, threads=threads)
    loaded = clock()
    batch = random_input(engine, file.name, seed=0)
    running = clock()
    engine.run(batch)
    ran = clock()
    for _ in range(_RUNS - 1):
        engine.run(batch)
    return ProcessStart(
        load_s=(loaded - started) * 1e-9,
        first_run_s=(ran - running) * 1e-9,
        peak_rss_bytes=peak_rss_bytes(),
        rss_before_bytes=before,
        engine=engine.name,
        engine_version=engine.version,
        batch=batch.shape[0],
    )


def measure_starts(
    file: Path,
    threads: int = 1,
    *,
    repeats: int = REPEATS,
    timeout_s: float = SILENCE_S,
    run_job: RunJob = run_isolated,
) -> Starts:
    """Starts ``file`` in ``repeats`` fresh processes, one after another.

    The first start finds the file on disk or in the system's cache. A failed start ends the measurement: a file that
    crashes one time in three must not run with the others.

    Args:
        file: the ``.onnx`` or ``.tflite`` file.
        threads: threads of the engine, at least 1.
        repeats: number of processes, at least 1.
        timeout_s: after which a process is killed, s.
        run_job: runs a job in a fresh process.
    """
    starts = []
    for _ in range(repeats):
        answer = run_job("start", {"file": str(file.resolve()), "threads": threads}, silence_s=timeout_s)
        if answer.error is not None:
            what = without_folder(str(answer.error), file)
            return Starts(None, MemoryUse(None, None, what), what)
        starts.append(decode(ProcessStart, answer.value, "the start's result"))
    return Starts(
        Startup(tuple(one.load_s for one in starts), tuple(one.first_run_s for one in starts)),
        MemoryUse(median_low(one.peak_rss_bytes for one in starts), median_low(one.rss_before_bytes for one in starts)),
        engine=starts[-1].engine,
        engine_version=starts[-1].engine_version,
        batch=starts[-1].batch,
    )


def without_folder(text: str, file: Path) -> str:
    """Returns ``text`` with the paths of ``file`` made into its name: results go on journeys."""
    for path in (str(file.resolve()), str(file)):
        text = text.replace(path, file.name)
    return text


def _import_engine(file: Path) -> None:
    """Imports the engine, so that its time does not count as the file's; ``open_engine`` reports a missing one."""
    kind = engine_of(file)
    with contextlib.suppress(ImportError):
        import_module(kind.module)
        if kind.package:
            version(kind.package)


def _starts(own: Measured) -> str:
    return f"of {format.plural(len(own.file.startup.load_s), 'start')}" if own.file.startup else ""


_SHOWN = frozenset({"bench", "run", "report"})

STARTUP = Metric(
    name="startup",
    title="load and first inference",
    wanted=lambda request: request.startup,
    columns=(
        column(
            "Load",
            held("startup", lambda own: median(own.load_s)),
            text=format.seconds,
            detail=_starts,
            short="load",
            views=_SHOWN,
        ),
        column(
            "First inference",
            held("startup", lambda own: median(own.first_run_s)),
            text=format.seconds,
            detail=_starts,
            short="first run",
            views=_SHOWN,
        ),
    ),
    section="Speed",
    part="Start and latency",
    note=lambda measured: (
        "Each start was in a fresh process, median of them; load is from the open file to an engine that can run."
        if any(own.file.startup for own in measured)
        else ""
    ),
)
