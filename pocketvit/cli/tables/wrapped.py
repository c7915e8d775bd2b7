"""Tables that fit a terminal of any width: columns without room go into another table below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from device_bench import format

_FRAME, _RULE = 4, 3
"""Characters that the edges of a table and its first column take, and those of every other column."""

_LEAST_NAME = 24
_WORDS = ("precision",)


def wrapped_tables(
    names: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    width: int,
    *,
    title: str | None = None,
    end: Sequence[str] = (),
) -> list[Table]:
    """Returns as many tables as the width needs, each with the names of the rows; columns without figures are left out.

    Args:
        names: names of the rows, the only texts that are ever broken.
        columns: cells by heading, in their order.
        width: width of the terminal, characters.
        title: title of the first table.
        end: rows below which there is a line.
    """
    filled = {heading: cells for heading, cells in columns.items() if any(cell != format.MISSING for cell in cells)}
    widths = {heading: max(map(len, (heading, *cells))) + _RULE for heading, cells in filled.items()}
    name_width = min(max(map(len, names), default=0), max(_LEAST_NAME, 2 * width // 5))
    groups: list[list[str]] = [[]]
    left = width - name_width - _FRAME
    for heading, own in widths.items():
        if groups[-1] and own > left:
            groups.append([])
            left = width - name_width - _FRAME
        groups[-1].append(heading)
        left -= own
    return [
        _table(names, {heading: filled[heading] for heading in group}, name_width, "" if index else title, end)
        for index, group in enumerate(groups)
    ]


def _table(
    names: Sequence[str], columns: Mapping[str, Sequence[str]], name_width: int, title: str | None, end: Sequence[str]
) -> Table:
    table = Table(header_style="bold", title=title or None, title_justify="left")
    table.add_column("", overflow="fold", width=name_width)
    for heading in columns:
        table.add_column(heading, justify="left" if heading in _WORDS else "right", no_wrap=True)
    for i, name in enumerate(names):
        cells = [own[i] for own in columns.values()]
        if any(cell != format.MISSING for cell in cells) or not columns:
            table.add_row(Text(name), *cells, end_section=name in end)
    return table
