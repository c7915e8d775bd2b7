"""Files on several targets as one table: a line for each file, a group of columns for each target."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from device_bench import format
from device_bench.columns import terminal_columns
from device_bench.documents.results import BenchResult
from device_bench.metrics.base import Measured
from device_bench.targets.fleet import Fleet

from .results import bench_table, metric_columns

_FRAME, _RULE = 4, 3
"""Characters that a table's edges and its first column's take, and every further column's."""

_NAME_WIDTH = 24


@dataclass(frozen=True)
class _Column:
    """A heading of two lines, the upper one the target's, and cells of one line or two."""

    heading: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        return max(len(line) for text in (self.heading, *self.cells) for line in text.split("\n")) + _RULE


@dataclass(frozen=True)
class FleetTable:
    """The main figures of several targets, with failures and notes below; fitted to the terminal's width."""

    fleet: Fleet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields what fits the console's width; a target's columns stay together where they fit at all."""
        measured = [result for result in self.fleet.results if result.files]
        names = list(dict.fromkeys(file.file for result in measured for file in result.files))
        name_width = min(max(map(len, names), default=0), _NAME_WIDTH)
        groups = [_columns(result, names) for result in measured]
        for columns in _packed(groups, options.max_width - name_width - _FRAME):
            yield _table(names, columns, name_width)
        yield from _images(measured)
        for result in self.fleet.results:
            yield from _told(result)
        for failure in self.fleet.failures:
            yield Text(f"NOT MEASURED: {failure.target}: {failure.what}", "bold red")


def bench_tables(fleet: Fleet) -> RenderableType:
    """Returns every figure of one target, or the main figures of several targets side by side."""
    if len(fleet.results) == 1 and not fleet.failures:
        return bench_table(fleet.results[0])
    return FleetTable(fleet)


def _columns(result: BenchResult, names: Sequence[str]) -> tuple[_Column, ...]:
    files = [result.of(name) for name in names]
    measured = [Measured(result, file) if file else None for file in files]
    shown = terminal_columns(metric_columns("fleet"), measured)
    return tuple(
        # intervals stand on a second line, so that more targets fit next to each other
        _Column(f"{'' if index else result.target}\n{heading.partition(' [')[0]}", tuple(map(_broken, cells)))
        for index, (heading, cells) in enumerate(shown.items())
    )


def _broken(cell: str) -> str:
    """Returns a figure with its interval, or how it is known, on a second line."""
    return re.sub(r" (?=\[|measured|estimated)", "\n", cell, count=1)


def _packed(groups: Sequence[tuple[_Column, ...]], width: int) -> list[tuple[_Column, ...]]:
    """Returns the groups' columns in as few tables of at most ``width`` as keep each group together where it fits."""
    packed: list[tuple[_Column, ...]] = []
    for group in groups:
        pieces = [group] if sum(column.width for column in group) <= width else [(column,) for column in group]
        for index, piece in enumerate(pieces):
            together = (*packed[-1], *piece) if packed else piece
            joins = len(pieces) == 1 or index > 0
            if packed and joins and sum(column.width for column in together) <= width:
                packed[-1] = together
            else:
                packed.append(piece)
    return packed


def _table(names: Sequence[str], columns: Sequence[_Column], name_width: int) -> Table:
    table = Table(header_style="bold")
    table.add_column("", overflow="fold", width=name_width)
    for column in columns:
        table.add_column(Text(column.heading), justify="right", no_wrap=True)
    for index, name in enumerate(names):
        table.add_row(Text(name), *(Text(column.cells[index]) for column in columns))
    return table


def _images(results: Sequence[BenchResult]) -> Iterator[Text]:
    """Yields on how many images each target was right so often, and where intervals are from."""
    asked: dict[str, list[str]] = {}
    for result in results:
        for count in dict.fromkeys(file.accuracy.images for file in result.files if file.accuracy):
            asked.setdefault(format.plural(count, "image"), []).append(result.target)
    for images, targets in asked.items():
        yield Text(f"Top-1 on {format.listed(targets)} is of {images}.")
    if any(file.latency for result in results for file in result.files):
        yield Text("Below each median: its 95 % interval.")


def _told(result: BenchResult) -> Iterator[Text]:
    """Yields what must be known of a target's figures, and which files have none."""
    if result.emulated:
        counted = ", instructions of one run instead" if any(file.instructions for file in result.files) else ""
        yield Text(f"{result.target} is emulated: no time{counted}.")
    for failure in result.failures:
        yield Text(f"NOT MEASURED on {result.target}: {failure.file}: {failure.what}", "bold red")
    for note in result.notes:
        yield Text(f"{result.target}: {note}", "yellow")
    for file in result.files:
        for note in file.notes:
            yield Text(f"{result.target}, {file.file}: {note}", "yellow")
