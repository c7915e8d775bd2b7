"""The machine's peak arithmetic: models that are matrix products and nothing else, by the engines' own kernels.

Each is a chain of ``LAYERS`` products of (``ROWS``, ``WIDTH``) by (``WIDTH``, ``WIDTH``), 0.8 G operations. The rows
are a multiple of the 2, 3, 4, 6, 7, 8, 12 or 14 that kernels take at a time, and weights of one product fit a cache
of 1 MB. They come in the package; ``benchmarks/make_peak_models.py`` makes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable

from device_bench import format
from device_bench.clock import Clock
from device_bench.documents.figures import Arithmetic, Peak
from device_bench.timing.inputs import random_input
from runtime import ArtifactError, Engine, MissingExtraError, open_engine

from .base import VIEWS, Measured, Metric, column

ROWS, WIDTH, LAYERS = 168, 384, 16
MACS = ROWS * WIDTH * WIDTH * LAYERS
"""Multiply-accumulates of one run of a model."""

MODELS: dict[tuple[str, Arithmetic], tuple[str, ...]] = {
    ("litert", "fp32"): ("fp32.tflite",),
    ("litert", "int8"): ("int8-static.tflite", "int8-dynamic.tflite"),
    ("onnxruntime", "fp32"): ("fp32.onnx",),
    ("onnxruntime", "int8"): ("int8-static.onnx", "int8-dynamic.onnx"),
}
"""Files by engine and arithmetic; which kind of int8 product is the faster depends on the processor."""

RUNS, SECONDS = 30, 0.5
_WARM_UP, _FEWEST = 2, 3


def measure_peaks(
    threads: int = 1,
    arithmetics: Sequence[Arithmetic] = ("fp32", "int8"),
    *,
    runs: int = RUNS,
    seconds: float = SECONDS,
    clock: Clock = time.perf_counter_ns,
    folder: Traversable | None = None,
    sign: Callable[[], None] = lambda: None,
) -> tuple[Peak, ...]:
    """Returns the peaks that each installed engine reaches; of several models the values of the fastest.

    Models run one after another, each alone in memory: threads of an engine that wait for work would slow the next.

    Args:
        threads: threads of the engines, at least 1.
        arithmetics: which.
        runs: timed runs of each model, at most.
        seconds: time for each model, s; three runs are taken in any case.
        clock: a monotonic clock in nanoseconds.
        folder: with the models; by default the package's own.
        sign: called before each run, to show that nothing hangs.
    """
    folder = files(__package__).joinpath("peak_models") if folder is None else folder
    peaks = []
    for (engine, arithmetic), names in MODELS.items():
        if arithmetic not in arithmetics:
            continue
        found = [values for name in names if (values := _gflops(folder / name, threads, runs, seconds, clock, sign))]
        if found:
            peaks.append(Peak(engine, arithmetic, threads, max(found, key=max)))
    return tuple(peaks)


def _gflops(
    model: Traversable, threads: int, runs: int, seconds: float, clock: Clock, sign: Callable[[], None]
) -> tuple[float, ...]:
    """Returns 10^9 operations a second of each run; nothing where the engine is missing or does not know the model."""
    sign()
    try:
        with as_file(model) as path:
            engine: Engine = open_engine(path, threads=threads)
            batch = random_input(engine, model.name, seed=0)
    except (MissingExtraError, ArtifactError):
        return ()
    for _ in range(_WARM_UP):
        engine.run(batch)
    values: list[float] = []
    begun = clock()
    while len(values) < runs:
        sign()
        start = clock()
        engine.run(batch)
        end = clock()
        values.append(2 * MACS / max(1, end - start))  # operations a nanosecond are 10^9 a second
        if len(values) >= _FEWEST and (end - begun) * 1e-9 >= seconds:
            break
    return tuple(values)


def _peak(own: Measured) -> str:
    peak = own.bench.peak_of(own.file)
    return f"of {format.gflops(peak.best)}, {peak.arithmetic}" if peak else ""


def _note(measured: Sequence[Measured]) -> str:
    if not any(own.file.flops for own in measured):
        return ""
    text = (
        "Operations are two for each multiply-accumulate, floating-point or what stands for them in integers; "
        "what is reached is at the median latency."
    )
    peaks = measured[0].bench.peaks
    if peaks:
        words = "; ".join(
            f"{format.gflops(peak.best)} in {peak.arithmetic} ({peak.engine}, {format.plural(peak.threads, 'thread')})"
            for peak in peaks
        )
        return (
            f"{text} Share of peak is of the most that this machine was seen to do in matrix products of the same "
            f"arithmetic with as many threads: {words}."
        )
    if any(own.file.gflops_per_s for own in measured):
        return f"{text} The machine's peak was not measured, so no share of it is given."
    return text


ARITHMETIC_RATE = Metric(
    name="arithmetic",
    title="GFLOP/s and share of peak",
    optional=False,
    columns=(
        column(
            "Operations per image",
            lambda own: own.file.flops,
            text=format.flop,
            short="per image",
            views=frozenset({"bench", "report"}),
        ),
        column(
            "Reached",
            lambda own: own.file.gflops_per_s,
            text=format.gflops,
            short="GFLOP/s",
            unit="GFLOP/s",
            views=VIEWS - {"fleet"},
        ),
        column(
            "Share of peak",
            lambda own: own.peak_share,
            text=format.percent,
            detail=_peak,
            short="of peak",
            views=VIEWS - {"fleet"},
        ),
    ),
    section="Speed",
    part="Throughput and arithmetic",
    note=_note,
)
