"""A report as data: sections of paragraphs, tables and pictures, which ``html`` and ``markdown`` render."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from device_bench import format
from device_bench.columns import Cell, Column

from .matrices import Confusions

S = TypeVar("S")


@dataclass(frozen=True)
class Drawing:
    """One drawn picture.

    Attributes:
        file: name of the SVG file next to the report.
        label: description of the picture.
        svg: the whole picture, for the file.
        panels: the same picture in pieces, for the page.
    """

    file: str
    label: str
    svg: str
    panels: tuple[str, ...]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: a note in small print, or a warning."""

    kind: ClassVar[str] = "paragraph"
    text: str
    style: Literal["note", "note after", "warning"] = "note"


@dataclass(frozen=True)
class Subheading:
    """A heading inside a section."""

    kind: ClassVar[str] = "subheading"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of short remarks."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Footnotes:
    """Numbered remarks on single rows of the tables.

    Attributes:
        anchor: beginning of the ids that rows link to.
        items: number, row and text.
    """

    kind: ClassVar[str] = "footnotes"
    anchor: str
    items: tuple[tuple[int, str, str], ...]

    def of(self, name: str) -> tuple[int, ...]:
        """Returns the numbers of the remarks on a row."""
        return tuple(number for number, row, _ in self.items if row == name)


@dataclass(frozen=True)
class Heading:
    """The heading of a column.

    Attributes:
        text: the heading.
        detail: a smaller text below it.
        label: the heading in one line, for narrow screens; by default ``text``.
        words: whether the column holds words, which are aligned left.
        code: whether the column holds paths or digests.
        long: whether the cells take a line each on a narrow screen.
    """

    text: str
    detail: str = ""
    label: str = ""
    words: bool = False
    code: bool = False
    long: bool = False


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        name: the row's own heading.
        cells: one for each column.
        strong: whether the row stands out.
    """

    name: str
    cells: tuple[Cell, ...]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        first: heading of the rows' names.
        headings: headings of the further columns.
        rows: the rows.
        footnotes: remarks that the rows link to.
        style: CSS classes; ``text`` for a table of words.
        wide: whether the table may be wider than the page, and is then scrolled.
        narrow: text before a row's name on a narrow screen.
        merged: whether equal cells of a row become one.
    """

    kind: ClassVar[str] = "table"
    first: str
    headings: tuple[Heading, ...]
    rows: tuple[TableRow, ...]
    footnotes: Footnotes | None = None
    style: str = ""
    wide: bool = False
    narrow: str = ""
    merged: bool = False


@dataclass(frozen=True)
class FigurePanel:
    """A drawing with its caption.

    Attributes:
        drawing: the picture.
        layout: arrangement of the panels: ``wide``, ``even``, ``pairs``, or empty.
        caption: explanation of the drawing.
    """

    kind: ClassVar[str] = "picture"
    drawing: Drawing
    layout: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Matrices:
    """Confusion matrices on the page, and the most frequent confusions as a table in Markdown.

    Attributes:
        confusions: the confusions of every file.
        note: explanation of the matrices.
    """

    kind: ClassVar[str] = "matrices"
    confusions: Confusions
    note: str = ""


@dataclass(frozen=True)
class Fold:
    """Content that a reader opens: a table, or lines of code."""

    kind: ClassVar[str] = "fold"
    summary: str
    table: Table | None = None
    code: tuple[str, ...] = ()


PageBlock = Paragraph | Subheading | Bullets | Footnotes | Table | FigurePanel | Matrices | Fold


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        title: the heading.
        blocks: the content.
        failed: whether the section reports a failure.
    """

    title: str
    blocks: tuple[PageBlock, ...]
    failed: bool = False


@dataclass(frozen=True)
class Tile:
    """A headline figure.

    Attributes:
        caption: name of the figure.
        value: the figure.
        compared: values that the figure compares.
    """

    caption: str
    value: str
    compared: str


@dataclass(frozen=True)
class ReportPage:
    """A whole report.

    Attributes:
        kind: kind of report, such as ``PocketViT report``.
        title: name of the run or study.
        verdict: the result in a few sentences.
        sections: the content.
        footer: last line.
        tiles: headline figures.
    """

    kind: str
    title: str
    verdict: str
    sections: tuple[Section, ...]
    footer: str
    tiles: tuple[Tile, ...] = ()

    @property
    def drawings(self) -> tuple[Drawing, ...]:
        """The drawings of all sections."""
        blocks = [block for section in self.sections for block in section.blocks]
        return tuple(block.drawing for block in blocks if isinstance(block, FigurePanel))


def table(
    first: str,
    columns: Sequence[Column[S]],
    rows: Sequence[S],
    name: Callable[[S], str],
    *,
    strong: Callable[[S], bool] = lambda row: False,
    footnotes: Footnotes | None = None,
    style: str = "",
    wide: bool = False,
    narrow: str = "",
) -> Table | None:
    """Returns a table without the columns and rows that hold no figure; None when nothing is left.

    Args:
        first: heading of the rows' names.
        columns: the further columns.
        rows: objects that the columns read.
        name: returns the name of a row.
        strong: whether a row stands out.
        footnotes: remarks that the rows link to.
        style: CSS classes.
        wide: whether the table may be wider than the page.
        narrow: text before a row's name on a narrow screen.
    """
    cells = [[column.cell(row) for row in rows] for column in columns]
    kept = [i for i, own in enumerate(cells) if any(cell.known for cell in own)]
    made = tuple(
        TableRow(name(row), tuple(cells[i][at] for i in kept), strong(row))
        for at, row in enumerate(rows)
        if any(cells[i][at].value != format.MISSING for i in kept)
    )
    if not made:
        return None
    headings = tuple(
        Heading(columns[i].heading, words=columns[i].words, code=columns[i].code, long=columns[i].long) for i in kept
    )
    return Table(first, headings, made, footnotes, style, wide, narrow)


def blocks(*parts: PageBlock | Sequence[PageBlock] | None) -> tuple[PageBlock, ...]:
    """Returns the parts that there are, in one row.

    >>> blocks(None, Paragraph("a"), [Paragraph("b")])
    (Paragraph(text='a', style='note'), Paragraph(text='b', style='note'))
    """
    found: list[PageBlock] = []
    for part in parts:
        if isinstance(part, Sequence):
            found += part
        elif part is not None:
            found.append(part)
    return tuple(found)


def paragraph(text: str | None, style: Literal["note", "note after", "warning"] = "note") -> Paragraph | None:
    """Returns a paragraph, or None for no text."""
    return Paragraph(text, style) if text else None


def bullets(items: Sequence[str]) -> Bullets | None:
    """Returns a list, or None for no items."""
    return Bullets(tuple(items)) if items else None
