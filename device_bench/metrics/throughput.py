"""Images a second of one file, by batch and by streams: copies of its engine that run side by side."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_bench import format
from device_bench.clock import Clock
from device_bench.documents.figures import Throughput
from device_bench.timing.inputs import random_input
from runtime import Engine, MeasurementError, PocketVitError, Progress, open_engine, silent

from .base import Measured, Metric, MetricTask, Number, column

WINDOWS = 5
"""Windows of each arrangement."""

MAX_BATCH = 64

OpenEngine = Callable[..., Engine]


@dataclass(frozen=True)
class Arrangement:
    """A way to feed images to a file.

    Attributes:
        batch: images of each run.
        streams: copies of the engine, each in its own thread.
        threads: threads of each stream.
    """

    batch: int
    streams: int = 1
    threads: int = 1


def measure_throughput(
    file: Path,
    *,
    threads: int = 1,
    budget_s: float = 6.0,
    cores: int | None = None,
    max_batch: int = MAX_BATCH,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
    progress: Progress = silent,
    sign: Callable[[], None] = lambda: None,
    open_file: OpenEngine = open_engine,
) -> tuple[Throughput, ...]:
    """Measures a file's images a second in several arrangements, in turns: windows of one follow those of another.

    Batches double from 1 as long as a window of one run is affordable, if the file's batch is free, with one stream
    of ``threads``. Streams of one thread each grow to the number of cores, with the file's smallest batch; and the best
    batch is tried on all cores. One image in one stream is always among them.

    Args:
        file: the ``.onnx`` or ``.tflite`` file.
        threads: threads of the engine where there is one stream, at least 1.
        budget_s: time for all arrangements together, s; each gets five windows in any case.
        cores: most streams; by default the cores that this process may use.
        max_batch: the largest batch to try.
        seed: seed of the inputs and of the order.
        clock: a monotonic clock in nanoseconds.
        progress: called with the windows done.
        sign: called before each run or window, to show that nothing hangs.
        open_file: opens a file.

    Returns:
        One for each arrangement, batches first.

    Raises:
        ArtifactError: the file cannot be loaded.
        UnsupportedTargetError: ``threads`` is below 1.
        MissingExtraError: the engine is not installed.
        MeasurementError: the file fails while it runs.
    """
    cores = cores or _usable_cores()
    engines = {threads: [open_file(file, threads=threads)]}
    sign()
    run_s = _batches(engines[threads][0], file.name, budget_s / (8 * WINDOWS), max_batch, seed, clock, sign)
    arrangements = _arrangements(run_s, threads, cores)
    singles = engines.setdefault(1, [])
    while len(singles) < max(item.streams for item in arrangements if item.threads == 1 or threads == 1):
        sign()
        singles.append(open_file(file, threads=1))
    inputs = {batch: _input(singles[0], file.name, batch, seed) for batch in run_s}
    window_s = budget_s / (WINDOWS * len(arrangements))
    values: dict[Arrangement, list[float]] = {item: [] for item in arrangements}
    order, done = random.Random(seed), 0
    for item in arrangements:  # buffers grow at the first run of a batch
        window(engines[item.threads][: item.streams], inputs[item.batch], 0.0, clock)
        sign()
    for _ in range(WINDOWS):
        for item in order.sample(arrangements, len(arrangements)):
            progress("throughput", done, WINDOWS * len(arrangements), file.name)
            sign()
            values[item].append(window(engines[item.threads][: item.streams], inputs[item.batch], window_s, clock))
            done += 1
    progress("throughput", done, done, file.name)
    return tuple(Throughput(item.batch, item.streams, item.threads, tuple(values[item])) for item in arrangements)


def window(engines: Sequence[Engine], batch: npt.NDArray[Any], seconds: float, clock: Clock) -> float:
    """Returns the images a second of ``engines`` that run side by side for ``seconds``, each at least once.

    Args:
        engines: one for each stream.
        batch: input of each engine.
        seconds: after which no run is begun, s.
        clock: a monotonic clock in nanoseconds.

    Raises:
        MeasurementError: a run fails.
    """
    rates, errors = [0.0] * len(engines), list[Exception]()
    together = threading.Barrier(len(engines))

    def stream(number: int) -> None:
        engine, runs = engines[number], 0
        try:
            together.wait()
            start = end = clock()
            while runs == 0 or (end - start) * 1e-9 < seconds:
                engine.run(batch)
                runs, end = runs + 1, clock()
            rates[number] = runs * len(batch) / (max(1, end - start) * 1e-9)
        except Exception as error:  # engines raise what they like
            errors.append(error)

    others = [threading.Thread(target=stream, args=(number,)) for number in range(1, len(engines))]
    for thread in others:
        thread.start()
    stream(0)
    for thread in others:
        thread.join()
    if errors:
        raise MeasurementError("The file failed while its throughput was measured", got=errors[0]) from errors[0]
    return sum(rates)


def _batches(
    engine: Engine, name: str, affordable_s: float, max_batch: int, seed: int, clock: Clock, sign: Callable[[], None]
) -> dict[int, float]:
    """Returns the batches worth measuring, with the time one image takes in each, s."""
    if engine.input_shape[0] > 0:
        return {engine.input_shape[0]: 0.0}
    found: dict[int, float] = {}
    batch = 1
    while batch <= max_batch:
        data = _input(engine, name, batch, seed)
        try:
            for _ in range(2):  # the first run of a batch makes room for it
                sign()
                start = clock()
                engine.run(data)
                seconds = (clock() - start) * 1e-9
        except Exception as error:  # engines raise what they like
            if batch > 1 and not isinstance(error, MemoryError):
                break  # the graph holds a batch of one somewhere inside
            if isinstance(error, PocketVitError):
                raise
            raise MeasurementError(f"{name} failed while it was measured", got=error) from error
        if batch > 1 and seconds > affordable_s:
            break
        found[batch] = seconds / batch
        batch *= 2
    return found


def _arrangements(run_s: dict[int, float], threads: int, cores: int) -> list[Arrangement]:
    smallest, best = min(run_s), min(run_s, key=lambda batch: run_s[batch])
    streams = [count for count in range(1, min(cores, 4) + 1)]
    while streams[-1] * 2 < cores:
        streams.append(streams[-1] * 2)
    wanted = [Arrangement(batch, 1, threads) for batch in run_s]
    wanted += [Arrangement(smallest, count, 1) for count in (*streams, cores)]
    wanted.append(Arrangement(best, cores, 1))
    return list(dict.fromkeys(wanted))


def _input(engine: Engine, name: str, batch: int, seed: int) -> npt.NDArray[Any]:
    one = random_input(engine, name, seed)
    return np.ascontiguousarray(np.broadcast_to(one, (batch, *one.shape[1:]))) if len(one) != batch else one


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _measure(task: MetricTask) -> tuple[Throughput, ...]:
    return measure_throughput(
        task.file,
        threads=task.threads,
        budget_s=task.options["budget_s"],
        seed=task.seed,
        progress=task.progress,
        sign=task.sign,
    )


def _arrangement(own: Measured) -> str:
    best = own.file.best_throughput
    return format.arrangement(best.batch, best.streams, best.threads) if best else ""


def _best(own: Measured) -> float | None:
    return own.file.best_throughput.median if own.file.best_throughput else None


def _one_image(own: Measured) -> float | None:
    alone = [one for one in own.file.throughput if (one.batch, one.streams) == (1, 1)]
    return alone[0].median if alone else None


THROUGHPUT = Metric(
    name="throughput",
    title="throughput",
    type=tuple[Throughput, ...],
    measure=_measure,
    wanted=lambda request: request.throughput_s > 0,
    options=lambda request: {"budget_s": request.throughput_s},
    columns=(
        column(
            "Best throughput",
            _best,
            text=format.rate,
            detail=_arrangement,
            short="images/s",
            unit="images/s",
            views=frozenset({"bench", "run", "report"}),
        ),
        column(
            "Batch and streams",
            lambda own: own.file.best_throughput,
            text=lambda best: f"{best.batch}, {best.streams}",
            short="batch, streams",
            views=frozenset({"bench"}),
        ),
        column("One image at a time", _one_image, text=format.rate, views=frozenset({"report"})),
    ),
    numbers=(Number("images_per_s", "images/s", _best, format.rate, unit="images/s"),),
    section="Speed",
    part="Throughput and arithmetic",
)
