"""Loads files and times them in turns."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from device_bench.documents.measurement import Measurement, Sampling
from device_bench.machine.state import MachineState, machine_state
from runtime import (
    Engine,
    MeasurementError,
    PocketVitError,
    Progress,
    manifest_path,
    open_engine,
    read_artifact,
    silent,
)

from .inputs import random_input
from .measure import measure_interleaved, settle

MarkTurn = Callable[[int], None]
"""Told the number of the file whose turn it is, or -1."""


def no_mark(number: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Turns:
    """Files timed in turns.

    Attributes:
        latencies: latencies of one run of each file, in their order, s.
        before: the machine just before the first run.
        after: the machine just after the last.
    """

    latencies: tuple[Measurement, ...]
    before: MachineState
    after: MachineState


def time_in_turns(
    files: Sequence[Path],
    *,
    threads: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: Progress = silent,
    mark: MarkTurn = no_mark,
) -> Turns:
    """Measures the latency of ``files``, interleaved, one image at a time.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        threads: threads of each engine, at least 1.
        sampling: duration of the measurement; by default ``Sampling()``.
        seed: seed of the inputs and of the order.
        progress: called with the rounds done.
        mark: called with the number of the file that runs next.

    Raises:
        ArtifactError: a file cannot be loaded.
        UnsupportedTargetError: ``threads`` is below 1.
        MissingExtraError: an engine is not installed.
        MeasurementError: a file fails while it runs.
    """
    engines, runners = [], {}
    for number, file in enumerate(files):
        mark(number)
        engine = open_engine(file, threads=threads)
        engines.append(engine)
        runners[file.name] = _runner(engine, file.name, seed)
    numbers = {file.name: number for number, file in enumerate(files)}
    gc.collect()
    gc.disable()  # a collection would fall on one file or another
    try:
        before = machine_state()
        latencies = measure_interleaved(
            runners, sampling=sampling, seed=seed, progress=progress, turn=lambda name: mark(numbers[name])
        )
        after = machine_state()
    finally:
        gc.enable()
    mark(-1)
    return Turns(tuple(latencies), before, after)


def time_files(
    files: Sequence[Path],
    *,
    threads: int = 1,
    rounds: int = 12,
    seed: int = 0,
    mark: MarkTurn = no_mark,
) -> tuple[tuple[float, ...], ...]:
    """Returns the latency of each of many files, every timed run in order, s.

    They take turns, and each timed run follows some of the same file that are not timed: a model that is run again
    and again finds its weights in the cache, and one that comes after thirty others does not.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        threads: threads of each engine, at least 1.
        rounds: timed runs of each.
        seed: seed of the inputs and of the order.
        mark: called with the number of the file that runs next.

    Raises:
        ArtifactError: a file cannot be loaded, or is not the one its manifest describes.
        UnsupportedTargetError: ``threads`` is below 1.
        MissingExtraError: an engine is not installed.
        MeasurementError: no file, two of the same name, or one that fails while it runs.
    """
    names = [file.name for file in files]
    if not names or len(set(names)) != len(names):
        raise MeasurementError("A bench needs files of different names", got=", ".join(names) or "none")
    runners = []
    for number, file in enumerate(files):
        mark(number)
        if manifest_path(file).is_file():
            read_artifact(file)  # its digest keeps damaged bytes from the engine
        runners.append(_settled(_runner(open_engine(file, threads=threads), file.name, seed)))
    order, values = random.Random(seed), [[] for _ in runners]  # type: tuple[random.Random, list[list[float]]]
    for _ in range(rounds):
        for number in order.sample(range(len(runners)), len(runners)):
            mark(number)
            try:
                values[number].append(runners[number]())
            except PocketVitError:
                raise
            except Exception as error:  # engines raise what they like
                raise MeasurementError(f"{names[number]} failed while it was measured", got=error) from error
    return tuple(map(tuple, values))


def _runner(engine: Engine, name: str, seed: int) -> Callable[[], object]:
    return partial(engine.run, random_input(engine, name, seed))


def _settled(run: Callable[[], object]) -> Callable[[], float]:
    """Returns a function that runs until the caches are warm, and says how long the next run took, s."""

    def timed() -> float:
        settle(run)
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) * 1e-9

    return timed
