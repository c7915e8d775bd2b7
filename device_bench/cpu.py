"""Target ``cpu``: files measured on this machine's processor, in this process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runtime import (
    Artifact,
    Engine,
    MeasurementError,
    PocketVitError,
    Progress,
    manifest_path,
    open_engine,
    read_artifact,
    sha256_of,
    silent,
    tool_version,
)

from .inputs import input_shape, random_input
from .machine import machine_state
from .measure import Sampling, measure_interleaved
from .memory import measure_memory
from .results import BenchResult, FileResult
from .stats import percentile


@dataclass(frozen=True)
class _Loaded:
    file: Path
    engine: Engine
    manifest: Artifact | None
    sha256: str


def bench_files(
    files: Sequence[Path],
    *,
    threads: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> BenchResult:
    """Measures latency and peak memory of ``files``, interleaved, one image at a time.

    A manifest beside a file is optional; where there is one, the file must be the one it describes.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        threads: of each engine, at least 1.
        sampling: how long to measure; by default ``Sampling()``.
        seed: of the inputs and of the order.
        progress: told of files and rounds done.

    Raises:
        ArtifactError: a file cannot be loaded, or is not the one its manifest describes; nothing was timed.
        UnsupportedTargetError: ``threads`` is below 1.
        MissingExtraError: an engine is not installed.
        MeasurementError: no file, two of the same name, or one that fails while it runs.
    """
    sampling = sampling or Sampling()
    loaded = _load(files, threads, progress)
    runners = {item.file.name: _runner(item, seed) for item in loaded}
    memory = []
    for done, item in enumerate(loaded):
        progress("memory", done, len(loaded), item.file.name)
        memory.append(measure_memory(item.file, threads))
    progress("memory", len(loaded), len(loaded))
    before = machine_state()
    latencies = measure_interleaved(runners, sampling=sampling, seed=seed, progress=progress)
    return BenchResult(
        target="cpu",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        seed=seed,
        sampling=sampling,
        before=before,
        after=machine_state(),
        files=tuple(
            FileResult(
                file=item.file.name,
                sha256=item.sha256,
                size_bytes=item.file.stat().st_size,
                precision=item.manifest.precision if item.manifest else None,
                engine=item.engine.name,
                engine_version=item.engine.version,
                threads=threads,
                batch=input_shape(item.engine, item.file.name)[0],
                measurements=(latency,),
                memory=use,
            )
            for item, latency, use in zip(loaded, latencies, memory, strict=True)
        ),
    )


def time_files(
    files: Sequence[Path], *, threads: int = 1, rounds: int = 12, percent: float = 25, seed: int = 0
) -> tuple[float, ...]:
    """Returns a low percentile of the latency of each of many small files, s.

    They take turns, and each timed run follows one of the same file that is not timed: a model that is run again and
    again finds its weights in the cache, and one that comes after thirty others does not. A low percentile, since
    with few runs the median still holds much of what else the machine did.

    Raises:
        ArtifactError: a file cannot be loaded.
        UnsupportedTargetError: ``threads`` is below 1.
        MissingExtraError: an engine is not installed.
        MeasurementError: a file fails while it runs.
    """
    loaded = _load(files, threads, silent)
    runners = [_twice(_runner(item, seed)) for item in loaded]
    names = [item.file.name for item in loaded]
    order, values = random.Random(seed), [[] for _ in runners]  # type: tuple[random.Random, list[list[float]]]
    for _ in range(rounds):
        for number in order.sample(range(len(runners)), len(runners)):
            try:
                values[number].append(runners[number]())
            except PocketVitError:
                raise
            except Exception as error:  # engines raise what they like
                raise MeasurementError(f"{names[number]} failed while it was measured", got=error) from error
    return tuple(percentile(own, percent) for own in values)


def _twice(run: Callable[[], None]) -> Callable[[], float]:
    """Returns a function that runs once, and again, and says how long the second took, s."""

    def timed() -> float:
        run()
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) * 1e-9

    return timed


def _load(files: Sequence[Path], threads: int, progress: Progress) -> list[_Loaded]:
    names = [file.name for file in files]
    if not names or len(set(names)) != len(names):
        raise MeasurementError("A bench needs files of different names", got=", ".join(names) or "none")
    loaded = []
    for done, file in enumerate(files):
        progress("load", done, len(files), file.name)
        # the manifest first: its digest keeps damaged bytes from the engine
        manifest = read_artifact(file) if manifest_path(file).is_file() else None
        engine = open_engine(file, threads=threads)
        loaded.append(_Loaded(file, engine, manifest, manifest.sha256 if manifest else sha256_of(file)))
    progress("load", len(files), len(files))
    return loaded


def _runner(item: _Loaded, seed: int) -> Callable[[], None]:
    engine, batch = item.engine, random_input(item.engine, item.file.name, seed)

    def run() -> None:
        engine.run(batch)

    return run
