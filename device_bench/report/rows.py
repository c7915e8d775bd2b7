"""The rows of a run's table, the baseline, the sliced model and every exported file, and the columns they fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from device_bench import format
from device_bench.columns import Column
from device_bench.documents.figures import EnergyTier, Throughput
from device_bench.documents.instructions import Instructions
from device_bench.interval import Interval
from runtime import ModelMetrics, ShapePlan


@dataclass(frozen=True)
class Model:
    """The baseline or the sliced model of a run.

    Attributes:
        plan: widths of the model; None before they are written.
        metrics: figures of the model; None before they are written.
    """

    plan: ShapePlan | None
    metrics: ModelMetrics | None


@dataclass(frozen=True)
class Timing:
    """The figures of one file on one target.

    Attributes:
        target: name of the target.
        threads: threads of the engine.
        engine: name and version of the engine.
        batch: images per run.
        median_s: median latency of one run, s.
        p90_s: 90th percentile, s.
        peak_rss_bytes: peak memory of a process that runs the file.
        memory_reason: why ``peak_rss_bytes`` is null.
        speedup: median latency of ``REFERENCE`` over this file's; None without ``REFERENCE`` in the same bench.
        load_s: median time to load the file in a fresh process, s.
        first_run_s: median time of the first inference, s.
        throughput: the batch and streams with the most images a second.
        gflops_per_s: operations a second at the median latency, 10^9/s, a multiply-accumulate counted as two.
        peak_share: ``gflops_per_s`` as a share of the machine's peak, 0..1.
        energy_tier: how the energy is known; None where it was not requested.
        joules_per_image: energy beyond idle power, J.
        grams_co2_per_image: CO2 equivalent, idle power included, g.
        top1: accuracy on the target, 0..1.
        top1_images: number of images behind ``top1``.
        emulated: whether the target is emulated, so that it has no time.
        instructions: instructions executed for one run; None where they were not counted.
        metrics: values of further metrics by name.
    """

    target: str
    threads: int
    engine: str
    batch: int
    median_s: Interval | None
    p90_s: Interval | None
    peak_rss_bytes: int | None
    memory_reason: str | None
    speedup: Interval | None
    load_s: float | None = None
    first_run_s: float | None = None
    throughput: Throughput | None = None
    gflops_per_s: float | None = None
    peak_share: float | None = None
    energy_tier: EnergyTier | None = None
    joules_per_image: float | None = None
    grams_co2_per_image: float | None = None
    top1: float | None = None
    top1_images: int | None = None
    emulated: bool = False
    instructions: Instructions | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SummaryRow:
    """One row of the table; unknown figures are None.

    Attributes:
        name: ``baseline``, ``sliced``, or the file's name.
        precision: precision of the file; None for the two models.
        params: number of parameters.
        macs: multiply-accumulates of one image.
        size_bytes: size of the file, or of the model's float32 weights.
        top1: accuracy, 0..1.
        top1_images: number of images behind ``top1``.
        agreement: share of images with the top-1 class of the torch model, 0..1.
        timings: figures on each target that measured the file.
        gzip_bytes: size of the file compressed by gzip.
        whole_agreement: share of test images with the top-1 class of the whole model, 0..1; of the sliced model alone.
        whole_cosine: mean cosine of its classifier's input, or of its vectors, with those of the whole model, -1..1; of
            files that answer with vectors, too.
        whole_images: number of images behind ``whole_agreement``, ``whole_cosine`` and ``whole_neighbours``.
        whole_neighbours: share of images whose nearest neighbour among the whole model's vectors is one of the ten
            nearest to its own vector, 0..1.
        own_neighbours: the same share in an index of its own vectors.
        cosine: mean cosine of a file's vectors with those of the torch model, -1..1.
    """

    name: str
    precision: str | None
    params: int | None
    macs: int | None
    size_bytes: int | None
    top1: float | None
    top1_images: int | None
    agreement: float | None
    timings: tuple[Timing, ...] = ()
    gzip_bytes: int | None = None
    whole_agreement: float | None = None
    whole_cosine: float | None = None
    whole_images: int | None = None
    whole_neighbours: float | None = None
    own_neighbours: float | None = None
    cosine: float | None = None

    def on(self, target: str) -> Timing | None:
        """Returns the timing on ``target``, or none."""
        return next((timing for timing in self.timings if timing.target == target), None)


_BOTH = frozenset({"run", "models"})

ROW_COLUMNS: tuple[Column[SummaryRow], ...] = (
    Column("Parameters", lambda row: row.params, format.count, short="params", views=_BOTH),
    Column("MACs", lambda row: row.macs, format.count, views=_BOTH),
    Column(
        "Size",
        lambda row: row.size_bytes,
        format.size,
        lambda row: f"gzip {format.size(row.gzip_bytes)}" if row.gzip_bytes else "",
        short="size",
        views=_BOTH,
    ),
    Column(
        "Top-1",
        lambda row: row.top1,
        format.percent,
        lambda row: f"of {format.whole(row.top1_images)}" if row.top1_images else "",
        short="top-1",
        views=_BOTH,
    ),
    Column(
        "Agrees with the whole model",
        lambda row: row.whole_agreement,
        format.percent,
        lambda row: f"of {format.whole(row.whole_images)}",
        short="as whole",
        views=_BOTH,
    ),
    Column(
        "Cosine with the whole model",
        lambda row: row.whole_cosine,
        format.cosine,
        lambda row: f"of {format.whole(row.whole_images)}",
        short="cosine",
        views=_BOTH,
    ),
    Column(
        "Neighbours of the whole model",
        lambda row: row.whole_neighbours,
        format.percent,
        lambda row: f"of {format.whole(row.whole_images)}",
        short="neighbours",
        views=_BOTH,
    ),
    Column("Cosine with torch", lambda row: row.cosine, format.cosine, short="as torch", views=_BOTH),
    Column("Agrees with torch", lambda row: row.agreement, format.percent, short="agrees", views=_BOTH),
)
"""Columns of a model or file that need no bench."""
