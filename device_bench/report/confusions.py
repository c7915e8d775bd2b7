"""Builds the confusion matrices of a target's files, or the most frequent confusions of many classes."""

from __future__ import annotations

from collections.abc import Sequence

from device_bench import format
from device_bench.documents.figures import Accuracy
from device_bench.documents.results import FileResult
from device_bench.metrics.base import REFERENCE
from device_bench.report.render.matrices import Confusions, Matrix, matrix_cells, short_heads

from .summary import RunSummary

MOST_CLASSES = 20
"""Most classes that a matrix is drawn for."""

MOST_PAIRS = 12


def confusions(summary: RunSummary, results: Sequence[FileResult]) -> Confusions | None:
    """Returns the confusions of each file, or None when no accuracy was measured.

    Files with another number of classes than the first are left out.
    """
    every = [(result.file, result.accuracy) for result in results if result.accuracy]
    if not every:
        return None
    every.sort(key=lambda pair: pair[0] != REFERENCE)
    classes = every[0][1].classes
    measured = [(name, own) for name, own in every if own.classes == classes]
    names = _class_names(summary, measured[0][0], classes)
    against = measured[0][1] if measured[0][0] == REFERENCE else None
    matrices = tuple(_matrix(name, own, against) for name, own in measured) if classes <= MOST_CLASSES else ()
    if matrices:
        names, heads = short_heads(names)
    else:
        heads = names
    pairs, files = _pairs(names, measured), tuple(name for name, _ in measured)
    return Confusions(matrices, names, heads, pairs, files, against is not None)


def _class_names(summary: RunSummary, file: str, classes: int) -> tuple[str, ...]:
    found = next((artifact.class_names for artifact in summary.artifacts if artifact.file == file), None)
    if found is not None and len(found) == classes:
        return tuple(found)
    word = "" if classes <= MOST_CLASSES else "class "
    return tuple(f"{word}{i}" for i in range(classes))


def _matrix(name: str, own: Accuracy, against: Accuracy | None) -> Matrix:
    before = against.confusion if against is not None and against is not own else None
    compared = before is not None and [sum(row) for row in before] == [sum(row) for row in own.confusion]
    rows = matrix_cells(own.confusion, before if compared else None)
    moved = any(cell.change for row in rows for cell in row)
    same = ", no difference" if compared and not moved else ""
    return Matrix(name, rows, f"top-1 {format.percent(own.top1)} of {format.whole(own.images)}{same}", compared)


def _pairs(
    names: Sequence[str], measured: Sequence[tuple[str, Accuracy]]
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Returns the most frequent confusions of any file."""
    counts: dict[tuple[int, int], list[int]] = {}
    for position, (_, own) in enumerate(measured):
        for true, answer, images in own.counts:
            if true != answer:
                counts.setdefault((true, answer), [0] * len(measured))[position] = images
    worst = sorted(counts.items(), key=lambda item: (-max(item[1]), -sum(item[1]), item[0]))[:MOST_PAIRS]
    return tuple((names[i], names[j], tuple(own)) for (i, j), own in worst)
