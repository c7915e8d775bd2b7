"""Top-1 of every file over its latency, size or energy, with the Pareto frontier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from device_bench import format
from device_bench.metrics import METRICS
from device_bench.metrics.base import Measured, Number

from .summary import RunSummary


@dataclass(frozen=True)
class Point:
    """A file in one picture.

    Attributes:
        file: name of the file.
        cost: cost of the file, in the unit of the axis.
        top1: accuracy, 0..1.
        on_target: whether the accuracy was measured on the target, not at export.
    """

    file: str
    cost: float
    top1: float
    on_target: bool


@dataclass(frozen=True)
class Tradeoff:
    """Accuracy over one cost.

    Attributes:
        what: name of the cost, such as ``latency``.
        axis: title of the axis, with the unit.
        show: turns a cost into text.
        points: files that have an accuracy and a cost.
    """

    what: str
    axis: str
    show: Callable[[float], str]
    points: tuple[Point, ...]

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The points of the Pareto frontier, cheapest first."""
        return frontier(self.points)


def frontier(points: Sequence[Point]) -> tuple[Point, ...]:
    """Returns the Pareto frontier: points that no other point matches in both and beats in one.

    >>> [p.file for p in frontier([Point("a", 2, 0.9, True), Point("b", 1, 0.8, True), Point("c", 2, 0.8, True)])]
    ['b', 'a']
    """

    def beaten(own: Point) -> bool:
        return any(
            other.cost <= own.cost and other.top1 >= own.top1 and (other.cost, other.top1) != (own.cost, own.top1)
            for other in points
        )

    return tuple(sorted((own for own in points if not beaten(own)), key=lambda own: (own.cost, own.file)))


def tradeoffs(summary: RunSummary, target: str) -> tuple[Tradeoff, ...]:
    """Returns accuracy over each cost that the files on ``target`` have."""
    measured = summary.measured_on(target)
    costs = [number for metric in METRICS.values() for number in metric.numbers if number.cost]
    found = [_tradeoff(number, measured) for number in costs]
    return tuple(one for one in found if one.points)


def _tradeoff(number: Number, measured: Sequence[Measured]) -> Tradeoff:
    points = []
    for own in measured:
        value, here = number.value(own), own.file.accuracy
        top1 = here.top1 if here else own.exported_top1
        if value is not None and top1 is not None:
            points.append(Point(own.file.file, value / number.scale, top1, here is not None))
    return Tradeoff(number.cost, number.axis(measured), lambda cost: number.show(cost * number.scale), tuple(points))


def accuracy_words(found: Sequence[Tradeoff], summary: RunSummary, target: str) -> str:
    """Returns where the accuracies of the points come from."""
    points = {point.file: point for one in found for point in one.points}
    here = [point.file for point in points.values() if point.on_target]
    there = [point.file for point in points.values() if not point.on_target]
    images = _images(summary, target, points)
    if not there:
        return f"Top-1 was measured on {target} itself, on {images}."
    if not here:
        return f"Top-1 is that of each file at export, on {images}; none was measured on {target}."
    return (
        f"Top-1 of {format.listed(here)} was measured on {target} itself, that of {format.listed(there)} "
        f"(hollow) at export; they are not of the same images. Counted on {images}."
    )


def short_names(files: Sequence[str]) -> dict[str, str]:
    """Returns names without the stem that all but the baseline's files share.

    >>> short_names(["baseline.onnx", "digits.onnx", "digits.int8.onnx"])
    {'baseline.onnx': 'baseline.onnx', 'digits.onnx': 'onnx', 'digits.int8.onnx': 'int8.onnx'}
    """
    own = [file for file in files if not file.startswith("baseline.")]
    stems = {file.partition(".")[0] for file in own}
    if len(stems) != 1 or len({file.partition(".")[2] for file in own}) != len(own):
        return {file: file for file in files}
    return {file: file.partition(".")[2] or file if file in own else file for file in files}


def _images(summary: RunSummary, target: str, points: dict[str, Point]) -> str:
    counts = set()
    for name, point in points.items():
        row = summary.row(name)
        timing = row.on(target) if row else None
        if row and timing:
            counts.add(timing.top1_images if point.on_target else row.top1_images)
    return f"{format.listed([format.whole(count) for count in sorted(filter(None, counts))])} images"
