"""Figures of one file other than latency: memory, start, throughput, energy, accuracy; and a machine's peaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from runtime import ArtifactError, MeasurementError, Precision

EnergyTier = Literal["measured", "estimated", "unavailable"]
Arithmetic = Literal["fp32", "int8"]
_JOULES_PER_KWH = 3.6e6

ARITHMETIC: dict[Precision, Arithmetic] = {
    "fp32": "fp32",
    "fp16": "fp32",  # the engines widen such weights and compute in float32
    "int8": "int8",
    "int4": "int8",  # XNNPACK widens such weights and multiplies integers of 8 bits
    "int8-full": "int8",
    "int8-full-mixed": "int8",
    "int8-full-16x8": "int8",
    "static-int8": "int8",
    "tflite-micro": "int8",
}
"""Type of arithmetic whose peak the matrix products of a file are compared with."""


@dataclass(frozen=True)
class MemoryUse:
    """Memory of a process that runs one file.

    Attributes:
        peak_rss_bytes: peak resident memory, interpreter and engine included, bytes; null with a reason.
        rss_before_bytes: resident memory before engine and file are loaded, bytes; null with a reason.
        reason: why the figures are null.

    Raises:
        MeasurementError: a figure is missing without a reason, or is not positive.
    """

    peak_rss_bytes: int | None
    rss_before_bytes: int | None
    reason: str | None = None

    def __post_init__(self) -> None:
        for value in (self.peak_rss_bytes, self.rss_before_bytes):
            if value is None and not self.reason:
                raise MeasurementError("A memory figure is missing without a reason")
            if value is not None and value <= 0:
                raise MeasurementError("A memory figure is impossible", expected="a positive number", got=value)


@dataclass(frozen=True)
class Startup:
    """Time of loading and of the first inference, each in a fresh process.

    Attributes:
        load_s: raw values, from the open file to an engine that can run, s; the engine's library is imported before.
        first_run_s: raw values of the first inference, s.

    Raises:
        MeasurementError: the numbers of values differ, or a value is impossible.
    """

    load_s: tuple[float, ...]
    first_run_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.load_s or len(self.load_s) != len(self.first_run_s):
            raise MeasurementError(
                "Each start has a load and a first run", got=(len(self.load_s), len(self.first_run_s))
            )
        _check_positive("A start", (*self.load_s, *self.first_run_s))


@dataclass(frozen=True)
class Throughput:
    """Images per second of a file with one batch size and number of streams.

    Attributes:
        batch: images of each run.
        streams: copies of the engine that run at the same time.
        threads: threads of each copy.
        images_per_s: raw values of all streams together, one per window.

    Raises:
        MeasurementError: there is no value, or one is impossible.
    """

    batch: int
    streams: int
    threads: int
    images_per_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.batch, self.streams, self.threads) < 1 or not self.images_per_s:
            raise MeasurementError(
                "A throughput needs values, and at least one image, stream and thread",
                got=f"{len(self.images_per_s)} values of {self.batch}, {self.streams}, {self.threads}",
            )
        _check_positive("A throughput", self.images_per_s)

    @property
    def median(self) -> float:
        """Images per second, the median of the windows."""
        return median(self.images_per_s)


@dataclass(frozen=True)
class Energy:
    """Energy of an inference, how it is known, and the idle power.

    Attributes:
        tier: ``measured`` by a counter, ``estimated`` by a model of the processor, or ``unavailable``.
        source: name of the source, such as ``RAPL package-0`` or ``codecarbon, TDP of 120 W``; null where unavailable.
        joules: raw values with idle power, one per window, J.
        window_s: length of each window, s.
        images: images processed in each window.
        idle_w: idle power just before, W; null if unavailable.
        grams_per_kwh: CO2 equivalent of the grid, g/kWh; null with ``carbon_reason``.
        country: country of the grid, ISO 3166 alpha-3.
        reason: why there is no value, and the cure.
        carbon_reason: why ``grams_per_kwh`` is null.

    Raises:
        MeasurementError: values are missing without a reason, or are impossible.
    """

    tier: EnergyTier
    source: str | None = None
    joules: tuple[float, ...] = ()
    window_s: tuple[float, ...] = ()
    images: tuple[int, ...] = ()
    idle_w: float | None = None
    grams_per_kwh: float | None = None
    country: str | None = None
    reason: str | None = None
    carbon_reason: str | None = None

    def __post_init__(self) -> None:
        if self.tier == "unavailable":
            if not self.reason or self.joules:
                raise MeasurementError("An energy that is unavailable has a reason and no value")
            return
        lengths = {len(self.joules), len(self.window_s), len(self.images)}
        if lengths == {0} or len(lengths) != 1 or not self.source or self.idle_w is None:
            raise MeasurementError("An energy needs a source, an idle power, and for each window joules, s and images")
        _check_positive("An energy window", self.window_s)
        if min(self.joules) < 0 or min(self.images) < 1 or not 0 <= self.idle_w < float("inf"):
            raise MeasurementError("An energy is impossible", expected="0 or more", got=min(*self.joules, self.idle_w))
        if not max(self.joules) < float("inf"):
            raise MeasurementError("An energy is impossible", got=max(self.joules))

    @property
    def joules_per_image(self) -> float | None:
        """Energy above idle power, J per image, the median of the windows; None if unavailable."""
        if self.tier == "unavailable" or self.idle_w is None:
            return None
        windows = zip(self.joules, self.window_s, self.images, strict=True)
        return median(max(0.0, joules - self.idle_w * seconds) / count for joules, seconds, count in windows)

    @property
    def total_joules_per_image(self) -> float | None:
        """Energy with idle power, J per image, the median of the windows: for a device that is otherwise off."""
        if self.tier == "unavailable":
            return None
        return median(joules / count for joules, count in zip(self.joules, self.images, strict=True))

    @property
    def grams_co2_per_image(self) -> float | None:
        """CO2 equivalent of ``total_joules_per_image``, g; None if that of the grid is not known."""
        total = self.total_joules_per_image
        return None if total is None or self.grams_per_kwh is None else total / _JOULES_PER_KWH * self.grams_per_kwh


@dataclass(frozen=True)
class Accuracy:
    """Answers of a file to labelled images on the target.

    Attributes:
        data: name of the dataset.
        split: split of the dataset.
        classes: number of classes.
        counts: the confusion matrix without its zeros: (true class, answer, images), each at most once.
        answers: class answered for each image, in order; empty if not kept.

    Raises:
        MeasurementError: a count has no class or is not positive, there is none, or the answers do not match.
    """

    data: str
    split: str
    classes: int
    counts: tuple[tuple[int, int, int], ...]
    answers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        cells = {(true, answer) for true, answer, _ in self.counts}
        sound = all(
            0 <= true < self.classes and 0 <= answer < self.classes and n > 0 for true, answer, n in self.counts
        )
        if not self.counts or not sound or len(cells) != len(self.counts):
            raise MeasurementError(
                "A confusion matrix counts images by true class and answer",
                expected=f"one or more of (true class, answer, images), classes from 0 to {self.classes - 1}",
                got=f"{self.counts[:3]} of {len(self.counts)}",
            )
        answered: Counter[int] = Counter()
        for _, answer, images in self.counts:
            answered[answer] += images
        if self.answers and answered != Counter(self.answers):
            raise MeasurementError(
                "The answers are not those of the confusion matrix", got=f"{len(self.answers)} answers"
            )

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(images for _, _, images in self.counts)

    @property
    def top1(self) -> float:
        """Share of images answered with their class, 0..1."""
        return sum(images for true, answer, images in self.counts if true == answer) / self.images

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Images by true class (row) and answer (column), ``classes`` x ``classes``, zeros included."""
        return dense(self.counts, self.classes)

    def agreement(self, other: Accuracy) -> float | None:
        """Returns the share of equal answers, 0..1; None if answers are missing or of different images."""
        if not self.answers or len(self.answers) != len(other.answers):
            return None
        return sum(map(int.__eq__, self.answers, other.answers)) / len(self.answers)


@dataclass(frozen=True)
class Peak:
    """The highest measured arithmetic of a machine: matrix products only, by the engine's kernels.

    Attributes:
        engine: name of the engine.
        arithmetic: type of the products.
        threads: threads of the engine.
        gflops: raw values, 10^9 operations per second; a multiply-accumulate is two operations.

    Raises:
        MeasurementError: there is no value, or one is impossible.
    """

    engine: str
    arithmetic: Arithmetic
    threads: int
    gflops: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.threads < 1 or not self.gflops:
            raise MeasurementError("A peak needs values and at least one thread", got=self.threads)
        _check_positive("A peak", self.gflops)

    @property
    def best(self) -> float:
        """The highest value."""
        return max(self.gflops)


@dataclass(frozen=True)
class Failure:
    """A file of which nothing could be measured.

    Attributes:
        file: name of the file, without a folder.
        what: error text.
    """

    file: str
    what: str


def confusion(labels: npt.NDArray[np.int64], answers: npt.NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """Returns the number of images for each true class and answer, without zeros.

    >>> confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    ((0, 0, 1), (0, 1, 1), (1, 1, 2))

    Args:
        labels: true classes, ``(N,)``.
        answers: answered classes, ``(N,)``.

    Returns:
        (true class, answer, images), by true class and then by answer.
    """
    pairs, counts = np.unique(np.stack([labels, answers], axis=1), axis=0, return_counts=True)
    return tuple((int(true), int(answer), int(n)) for (true, answer), n in zip(pairs, counts, strict=True))


def dense(counts: Iterable[tuple[int, int, int]], classes: int) -> tuple[tuple[int, ...], ...]:
    """Returns a confusion matrix by true class (row) and answer (column).

    >>> dense(((0, 0, 1), (0, 1, 1), (1, 1, 2)), 2)
    ((1, 1), (0, 2))
    """
    matrix = np.zeros((classes, classes), np.int64)
    for true, answer, images in counts:
        matrix[true, answer] += images
    return tuple(tuple(map(int, row)) for row in matrix)


def without_zeros(document: dict[str, Any], version: int) -> dict[str, Any]:
    """Returns a document in which the ``accuracy`` of each file has the form of ``Accuracy``.

    Benches up to version 3 and answers up to version 1 hold the whole matrix as ``confusion``, which grows with the
    square of the number of classes.

    Raises:
        ArtifactError: a matrix is not square.
    """
    files = document.get("files")
    if not isinstance(files, list):
        return document
    return {**document, "files": [_sparse(file) if isinstance(file, dict) else file for file in files]}


def _sparse(file: dict[str, Any]) -> dict[str, Any]:
    accuracy = file.get("accuracy")
    if not isinstance(accuracy, dict) or "confusion" not in accuracy:
        return file
    matrix = accuracy["confusion"]
    if not isinstance(matrix, list) or not all(isinstance(row, list) and len(row) == len(matrix) for row in matrix):
        raise ArtifactError("A confusion matrix is square and counts images", got=f"{str(matrix)[:80]}")
    counts = [[i, j, images] for i, row in enumerate(matrix) for j, images in enumerate(row) if images != 0]
    rest = {key: value for key, value in accuracy.items() if key != "confusion"}
    return {**file, "accuracy": {**rest, "classes": len(matrix), "counts": counts}}


def _check_positive(what: str, values: tuple[float, ...]) -> None:
    wrong = [value for value in values if not 0 < value < float("inf")]
    if wrong:
        raise MeasurementError(f"{what} has an impossible value", expected="a positive number", got=wrong[0])
