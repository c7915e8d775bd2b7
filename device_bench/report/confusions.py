"""What each file takes for what: confusion matrices beside the baseline's, or the worst pairs of many classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_bench import format
from device_bench.documents.figures import Accuracy
from device_bench.documents.results import FileResult
from device_bench.metrics.base import REFERENCE

from .summary import RunSummary

MOST_CLASSES = 20
"""Classes up to which a matrix can be read."""

MOST_PAIRS = 12

_LEVELS = 5
_NAME_EM, _EM_PX, _CELL_PX, _LEAST_CELL_PX = 9.0, 12, 30, 22


@dataclass(frozen=True)
class MatrixCell:
    """Images of one class that got one answer.

    Attributes:
        count: how many.
        level: 0 to 5, how strongly to colour it: by its share of the class.
        right: whether the answer is the class.
        change: against the baseline's file; 0 for that file itself.
    """

    count: int
    level: int
    right: bool
    change: int


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix of one file.

    Attributes:
        file: name of the file.
        rows: cells by true class and answer.
        caption: a smaller text after the name.
        compared: whether the changes are against the baseline's file.
    """

    file: str
    rows: tuple[tuple[MatrixCell, ...], ...]
    caption: str = ""
    compared: bool = False


@dataclass(frozen=True)
class Confusions:
    """The confusions of all files on one target.

    Attributes:
        matrices: one per file, the baseline's first; empty where there are too many classes.
        pairs: true class, answer, and how many images of it each file gave that answer, most first.
        files: the columns of ``pairs``.
        names: of the classes.
        heads: the same, short enough for the columns of a matrix.
    """

    matrices: tuple[Matrix, ...]
    pairs: tuple[tuple[str, str, tuple[int, ...]], ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    heads: tuple[str, ...]

    @property
    def referenced(self) -> bool:
        """Whether the first file is the one that others are compared with."""
        return self.files[:1] == (REFERENCE,)

    @property
    def compared(self) -> bool:
        """Whether any matrix shows changes."""
        return any(matrix.compared for matrix in self.matrices)

    @property
    def name_em(self) -> float:
        """Width of the column of names, em."""
        return min(_NAME_EM, 1.2 + 0.6 * max(map(len, self.names)))

    @property
    def width_px(self) -> int:
        """Width that a matrix wants, pixels."""
        return round(_EM_PX * self.name_em + _CELL_PX * len(self.names))

    @property
    def least_px(self) -> int:
        """Width below which it cannot be read and is scrolled."""
        return round(_EM_PX * self.name_em + _LEAST_CELL_PX * len(self.names))


def confusions(summary: RunSummary, results: Sequence[FileResult]) -> Confusions | None:
    """Returns what each file took for what, or None when no accuracy was measured.

    Files with another number of classes than the first are left out: they answer another question.
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
    return Confusions(matrices, _pairs(names, measured), tuple(name for name, _ in measured), names, heads)


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


def matrix_cells(
    counts: Sequence[Sequence[int]], before: Sequence[Sequence[int]] | None = None
) -> tuple[tuple[MatrixCell, ...], ...]:
    """Returns the coloured cells of a confusion matrix.

    Args:
        counts: images by true class and answer.
        before: the matrix that changes are against; None for no changes.
    """
    rows = []
    for i, row in enumerate(counts):
        total = sum(row) or 1
        cells = []
        for j, count in enumerate(row):
            change = count - before[i][j] if before else 0
            # errors are few: without the root the faintest colour would do for all of them
            share = count / total if i == j else (count / total) ** 0.5
            level = 0 if count == 0 else max(1, round(_LEVELS * share))
            cells.append(MatrixCell(count, level, i == j, change))
        rows.append(tuple(cells))
    return tuple(rows)


def short_heads(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of a matrix's rows and of its columns: numbers stand for long names.

    >>> short_heads(("cat", "dog")), short_heads(("cat", "horse"))
    ((('cat', 'dog'), ('cat', 'dog')), (('1 cat', '2 horse'), ('1', '2')))
    """
    if all(len(name) <= 3 for name in names):
        return names, names
    heads = tuple(str(i + 1) for i in range(len(names)))
    return tuple(f"{head} {name}" for head, name in zip(heads, names, strict=True)), heads


def _pairs(
    names: Sequence[str], measured: Sequence[tuple[str, Accuracy]]
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Returns the confusions that any file has most often."""
    counts: dict[tuple[int, int], list[int]] = {}
    for position, (_, own) in enumerate(measured):
        for true, answer, images in own.counts:
            if true != answer:
                counts.setdefault((true, answer), [0] * len(measured))[position] = images
    worst = sorted(counts.items(), key=lambda item: (-max(item[1]), -sum(item[1]), item[0]))[:MOST_PAIRS]
    return tuple((names[i], names[j], tuple(own)) for (i, j), own in worst)
