"""The type of a metric: its measurement, its columns, and the words about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from device_bench import format
from device_bench.columns import Column
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult, FileResult
from device_bench.interval import Interval
from device_bench.timing.stats import median_interval, p90_interval, ratio_of_medians
from runtime import Progress, decode, silent

T = TypeVar("T")

REFERENCE = "baseline.fp32.tflite"
"""Speed-ups are relative to this file: the unpruned model in float32."""

VIEWS = frozenset({"bench", "fleet", "run", "report"})
"""Tables that show a column unless it says otherwise: a bench and several targets on a terminal, a run, a report.

``models`` is the report's table of models and files; no column is in it unless it says so.
"""


@dataclass(frozen=True)
class MetricTask:
    """A request to measure one file, in the worker process.

    Attributes:
        file: the model file.
        threads: threads of the engine.
        seed: seed of the inputs.
        options: what ``Metric.options`` returned, as JSON values.
        progress: called with the work done.
        sign: called before each piece of work, to show that the worker does not hang.
    """

    file: Path
    threads: int = 1
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    progress: Progress = silent
    sign: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Measured:
    """The figures of one file on one target; the rows of every table of metrics.

    Attributes:
        bench: the bench that measured the file.
        file: the figures of the file.
        exported_top1: top-1 at export, 0..1; None if unknown.
        exported_images: number of images behind ``exported_top1``.
    """

    bench: BenchResult
    file: FileResult
    exported_top1: float | None = None
    exported_images: int | None = None

    def get(self, name: str, kind: type[T]) -> T | None:
        """Returns the value of a metric that no field of ``FileResult`` holds, or None.

        Raises:
            ArtifactError: the document holds a value of another type.
        """
        raw = self.file.metrics.get(name)
        return None if raw is None else decode(kind, raw, f"{name} of {self.file.file}")

    @property
    def median_s(self) -> Interval | None:
        """Median latency of one run with its 95 % interval, s."""
        return _median(self.file.latency.values) if self.file.latency else None

    @property
    def p90_s(self) -> Interval | None:
        """90th percentile of the latency with its 95 % interval, s."""
        return _p90(self.file.latency.values) if self.file.latency else None

    @property
    def speedup(self) -> Interval | None:
        """Median latency of ``REFERENCE`` over this file's; None unless both were timed in turns and alike."""
        reference = self.bench.of(REFERENCE)
        if reference is None or reference.file == self.file.file or not (reference.latency and self.file.latency):
            return None
        if (reference.threads, reference.batch) != (self.file.threads, self.file.batch):
            return None
        return _ratio(reference.latency.values, self.file.latency.values)

    @property
    def peak_share(self) -> float | None:
        """Arithmetic at the median latency as a share of the machine's peak, 0..1."""
        peak, reached = self.bench.peak_of(self.file), self.file.gflops_per_s
        return reached / peak.best if peak and reached is not None else None


_median = lru_cache(maxsize=256)(median_interval)
_p90 = lru_cache(maxsize=256)(p90_interval)
_ratio = lru_cache(maxsize=256)(ratio_of_medians)


@dataclass(frozen=True)
class Number:
    """One number of a file, for averages over seeds and for pictures of accuracy over cost.

    Attributes:
        key: name in a study's CSV and JSON, with the unit at its end.
        heading: name in a study's table.
        value: returns the number, or None.
        show: turns the number into text.
        unit: unit that ``heading`` already names, left out of a study's cells.
        reason: returns why a measured file lacks the number; None for the study's own words.
        cost: name of the cost that top-1 is drawn over; empty where the number is no cost.
        axis: returns the axis title of that picture, with the unit.
        scale: size of the axis unit, in the unit of ``value``.
        averaged: whether a study averages the number.
    """

    key: str
    heading: str
    value: Callable[[Measured], float | None]
    show: Callable[[float], str]
    unit: str = ""
    reason: Callable[[Measured], str | None] = lambda measured: None
    cost: str = ""
    axis: Callable[[Sequence[Measured]], str] = lambda measured: ""
    scale: float = 1.0
    averaged: bool = True


@dataclass(frozen=True)
class Metric:
    """Something that a bench measures of a file.

    A built-in metric keeps its value in the field ``name`` of ``FileResult``, any other in ``FileResult.metrics``.

    Attributes:
        name: name in documents, in ``--help`` and of the worker's job.
        title: the metric in a sentence, such as ``peak memory``.
        type: type of the value, which is stored as JSON.
        measure: measures a file in the worker process; None for a figure that comes with the timing of a file.
        wanted: whether a request asks for the metric.
        options: what ``measure`` needs of a request, as JSON values.
        emulated: whether the figure means anything on an emulated processor.
        optional: whether a report says so when no file has the figure.
        columns: columns in every table.
        numbers: numbers for studies and pictures.
        section: heading of the report's section, where ``{target}`` may stand; by default the title; None for none.
        part: heading inside the section, which metrics may share.
        note: returns the words above the table.
        remarks: returns pairs of a file and a remark on its figure.
    """

    name: str
    title: str
    type: Any = float
    measure: Callable[[MetricTask], Any] | None = None
    wanted: Callable[[BenchRequest], bool] = lambda request: True
    options: Callable[[BenchRequest], dict[str, Any]] = lambda request: {}
    emulated: bool = False
    optional: bool = True
    columns: tuple[Column[Measured], ...] = ()
    numbers: tuple[Number, ...] = ()
    section: str | None = ""
    part: str = ""
    note: Callable[[Sequence[Measured]], str] = lambda measured: ""
    remarks: Callable[[Sequence[Measured]], Iterable[tuple[str, str]]] = lambda measured: ()

    @property
    def averaged(self) -> tuple[Number, ...]:
        """The numbers that a study averages over seeds."""
        return tuple(number for number in self.numbers if number.averaged)

    def held_by(self, file: FileResult) -> bool:
        """Whether a result holds a value of the metric."""
        return bool(getattr(file, self.name, None)) or self.name in file.metrics


def held(name: str, value: Callable[[Any], Any]) -> Callable[[Measured], Any]:
    """Returns a function that applies ``value`` to a field of ``FileResult``, and gives None where that is None.

    Args:
        name: the field.
        value: returns the figure.
    """

    def of(measured: Measured) -> Any:
        own = getattr(measured.file, name)
        return None if own is None else value(own)

    return of


def column(heading: str, value: Callable[[Measured], Any], **more: Any) -> Column[Measured]:
    """Returns a column of metrics, which is in the usual ``VIEWS``."""
    return Column(heading, value, **{"views": VIEWS, **more})


def said_once(remarks: Iterable[tuple[str, str]], every: int) -> list[str]:
    """Returns each remark once, with the files it is of.

    >>> said_once([("a.onnx", "no energy"), ("b.onnx", "no energy")], every=3)
    ['a.onnx and b.onnx: no energy.']

    Args:
        remarks: pairs of a file and a text.
        every: number of all files.
    """
    files: dict[str, list[str]] = {}
    for file, text in remarks:
        files.setdefault(text.strip().rstrip("."), []).append(file)
    return [f"{'All files' if len(own) == every else format.listed(own)}: {text}." for text, own in files.items()]
