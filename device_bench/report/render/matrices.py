"""Confusion matrices as coloured cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEVELS = 5
_NAME_EM, _EM_PX, _CELL_PX, _LEAST_CELL_PX = 9.0, 12, 30, 22


@dataclass(frozen=True)
class MatrixCell:
    """The images of one class that got one answer.

    Attributes:
        count: number of images.
        level: strength of the colour, 0 to 5, by the share of the class.
        right: whether the answer is the class.
        change: difference to the baseline's file; 0 for that file itself.
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
        rows: cells by true class (row) and answer (column).
        caption: a smaller text after the name.
        compared: whether the changes are against the baseline's file.
    """

    file: str
    rows: tuple[tuple[MatrixCell, ...], ...]
    caption: str = ""
    compared: bool = False


@dataclass(frozen=True)
class Confusions:
    """The confusions of several files.

    Attributes:
        matrices: one for each file, the baseline's first; empty where there are too many classes.
        names: names of the classes.
        heads: the same, short enough for the columns of a matrix.
        pairs: true class, answer, and how many images of it each file gave that answer, most first.
        files: the columns of ``pairs``.
        referenced: whether the first file is the one that the others are compared with.
    """

    matrices: tuple[Matrix, ...]
    names: tuple[str, ...]
    heads: tuple[str, ...]
    pairs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    files: tuple[str, ...] = ()
    referenced: bool = False

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
        """Preferred width of a matrix, pixels."""
        return round(_EM_PX * self.name_em + _CELL_PX * len(self.names))

    @property
    def least_px(self) -> int:
        """Width below which a matrix is scrolled, pixels."""
        return round(_EM_PX * self.name_em + _LEAST_CELL_PX * len(self.names))


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
