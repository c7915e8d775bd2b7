"""Markdown of a report and of its tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .document import (
    Bullets,
    FigurePanel,
    Fold,
    Footnotes,
    Heading,
    Matrices,
    PageBlock,
    Paragraph,
    ReportPage,
    Subheading,
    Table,
    TableRow,
)

_LINK = re.compile(r"\](?=[(\[:])")


def escape(text: object) -> str:
    r"""Returns text that stays inside its table cell and means no markup.

    >>> print(escape("a_b|<i>"))
    a\_b\|&lt;i&gt;
    """
    escaped = str(text).replace("\\", "\\\\").replace("\n", " ")
    for mark in "|`*_":
        escaped = escaped.replace(mark, f"\\{mark}")
    escaped = _LINK.sub(r"\\]", escaped)  # an interval in brackets is no link
    return escaped.replace("<", "&lt;").replace(">", "&gt;")


def grid(headings: Sequence[str], left: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of texts that are escaped already.

    Args:
        headings: one for each column.
        left: whether a column is aligned left.
        rows: cells of each row, as many as headings.
    """
    ruler = "|".join(":--" if own else "--:" for own in left)
    return "\n".join([_line(headings), f"|{ruler}|", *map(_line, rows)])


def markdown(document: ReportPage) -> str:
    """Returns a whole report as Markdown."""
    parts = [f"# {escape(document.title)}", escape(document.verdict)]
    if document.tiles:
        parts.append("\n".join(f"- {escape(f'{own.caption}: {own.value} ({own.compared})')}" for own in document.tiles))
    for section in document.sections:
        parts.append(f"## {escape(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _block(block: PageBlock) -> str:
    match block:
        case Paragraph():
            return f"**{escape(block.text)}**" if block.style == "warning" else escape(block.text)
        case Subheading():
            return f"### {escape(block.text)}"
        case Bullets():
            return "\n".join(f"- {escape(item)}" for item in block.items)
        case Footnotes():
            return "\n".join(f"{number}. {escape(row)}: {escape(text)}" for number, row, text in block.items)
        case FigurePanel():
            return f"![{escape(block.drawing.label)}]({block.drawing.file})\n\n{escape(block.caption)}".rstrip()
        case Table():
            return _table(block)
        case Matrices():
            return _confusions(block)
        case Fold():
            content = _table(block.table) if block.table else "\n".join(f"    {line}" for line in block.code)
            return f"{escape(block.summary)}:\n\n{content}"


def _table(table: Table) -> str:
    def headed(heading: Heading) -> str:
        return escape(f"{heading.text} ({heading.detail})" if heading.detail else heading.text)

    def named(row: TableRow) -> str:
        marks = table.footnotes.of(row.name) if table.footnotes else ()
        return escape(row.name) + "".join(f" <sup>{number}</sup>" for number in marks)

    words = "text" in table.style.split()
    return grid(
        [escape(table.first), *map(headed, table.headings)],
        [True, *(words or heading.words for heading in table.headings)],
        [[named(row), *(escape(cell.line) for cell in row.cells)] for row in table.rows],
    )


def _confusions(block: Matrices) -> str:
    own = block.confusions
    if not own.pairs:
        return ""
    where = " (the whole matrices are in report.html)" if own.matrices else ""
    rows = [[escape(truth), escape(answer), *map(str, counts)] for truth, answer, counts in own.pairs]
    headings = ["True class", "Taken for", *map(escape, own.files)]
    made = grid(headings, [True, True, *(False for _ in own.files)], rows)
    return f"What was most often taken for what, in images{where}:\n\n{made}"
