"""Columns of tables, stated once for terminals, reports and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from . import format

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Cell:
    """One figure as text.

    Attributes:
        value: the figure with its unit.
        detail: a smaller text after or below it, such as an interval or a sample size.
        joined: whether ``detail`` is part of the figure, so that no table leaves it out.
        known: whether there is a figure; ``unavailable`` and the dash are none.
    """

    value: str
    detail: str = ""
    joined: bool = False
    known: bool = True

    @property
    def line(self) -> str:
        """The figure and its detail in one line."""
        between = " " if self.joined or self.detail.startswith("of ") else ", "
        return f"{self.value}{between}{self.detail}" if self.detail else self.value


NONE = Cell(format.MISSING, known=False)


def split_columns(text: str, mark: str = "[") -> Cell:
    """Returns a figure whose interval or deviation becomes the detail.

    >>> split_columns("1.91 ms [1.88, 1.95]").detail, split_columns("98.5 % ± 0.7 %", "±").detail
    ('[1.88, 1.95]', '± 0.7 %')
    """
    value, found, rest = text.partition(f" {mark}")
    return Cell(value, f"{mark}{rest}", joined=True) if found else Cell(text, known=text != format.MISSING)


@dataclass(frozen=True)
class Column(Generic[S]):
    """One column of a table whose rows are things of type ``S``.

    Attributes:
        heading: the column's name in reports.
        value: returns the figure of a row, or None.
        text: turns a figure into text.
        detail: returns the smaller text of a row that has a figure.
        short: the column's name on a terminal; by default ``heading``.
        unit: unit that ``short`` already names, left out of the terminal's cells.
        joined: whether the detail is part of the figure.
        words: whether the cells are words, which are aligned left and may be broken.
        code: whether the cells are paths or digests.
        long: whether the cells are sentences.
        views: the tables that have the column.
    """

    heading: str
    value: Callable[[S], Any]
    text: Callable[[Any], str | Cell] = str
    detail: Callable[[S], str] | None = None
    short: str = ""
    unit: str = ""
    joined: bool = False
    words: bool = False
    code: bool = False
    long: bool = False
    views: frozenset[str] = frozenset()

    def of(self, get: Callable[[R], S | None]) -> Column[R]:
        """Returns the same column for rows of another type.

        Args:
            get: returns what the column is of, or None where a row has none.
        """

        def value(row: R) -> Any:
            own = get(row)
            return None if own is None else self.value(own)

        def detail(row: R) -> str:
            own = get(row)
            return "" if own is None or self.detail is None else self.detail(own)

        more = {field.name: getattr(self, field.name) for field in fields(self)}
        return Column(**{**more, "value": value, "detail": detail if self.detail else None})

    def cell(self, row: S) -> Cell:
        """Returns the cell of a row; a dash where the row has no figure."""
        value = self.value(row)
        if value is None:
            return NONE
        made = self.text(value)
        cell = made if isinstance(made, Cell) else Cell(made, known=made != format.MISSING)
        if self.detail is None or not cell.known:
            return cell
        return Cell(cell.value, self.detail(row), self.joined)

    def terminal(self, row: S | None) -> str:
        """Returns the cell of a row as a terminal shows it; a dash for None."""
        if row is None:
            return format.MISSING
        cell = self.cell(row)
        return (cell.line if cell.joined else cell.value).removesuffix(f" {self.unit}")


def of_view(columns: Sequence[Column[S]], view: str) -> tuple[Column[S], ...]:
    """Returns the columns that a view shows, in their order."""
    return tuple(column for column in columns if view in column.views)


def terminal_columns(columns: Sequence[Column[S]], rows: Sequence[S | None]) -> dict[str, list[str]]:
    """Returns the cells of each column that has a figure, by its short heading."""
    return {
        column.short or column.heading: [column.terminal(row) for row in rows]
        for column in columns
        if any(row is not None and column.cell(row).known for row in rows)
    }
