"""What a linter found in a model file, as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from device_bench import format

if TYPE_CHECKING:  # most tables have no use for export
    from export.inspect.lint.lint_file import HalfCheck, Lint

_LARGEST = 5
"""Operators that are shown with their largest values."""


def lint_tables(found: Lint) -> list[RenderableType]:
    """Returns every finding with its cure, and what was found of float16's range."""
    parts: list[RenderableType] = []
    if found.clean:
        parts.append(Text(f"{found.file}: nothing found for {found.title}", "green"))
    else:
        table = Table(header_style="bold", title=f"{found.file}, for {found.title}", title_justify="left")
        for heading in ("rule", "operator", "tensor", "found", "cure"):
            table.add_column(heading, overflow="fold")
        for own in found.findings:
            more = f" and {own.count - 1} more" if own.count > 1 else ""
            table.add_row(*map(_shown, (own.rule, own.op + more, own.tensor, own.found, own.cure)))
        parts.append(table)
    if found.half is None:
        return [*parts, Text(f"Range of float16: not checked, {found.half_reason}")]
    return [*parts, *_half_part(found.half)]


def _half_part(half: HalfCheck) -> list[RenderableType]:
    table = Table(header_style="bold", title_justify="left")
    table.title = f"Largest values of {half.file} on {half.images} images, {half.source}; float16 ends at 65,504"
    for heading in ("operator", "tensor", "largest value", "largest sum"):
        table.add_column(heading, justify="left" if heading in ("operator", "tensor") else "right")
    for op in sorted(half.ops, key=lambda op: -op.most)[:_LARGEST]:
        total = format.MISSING if op.sum is None else f"{op.sum:,.4g}"
        table.add_row(_shown(f"{op.op} #{op.index}"), _shown(op.tensor), f"{op.largest:,.4g}", total)
    noise = f"In simulated float16, {half.simulated} of them have an SQNR of {format.decibels(half.sqnr_db)}"
    return [table, Text(noise)]


def _shown(text: str) -> Text:
    """Returns a text from a file without control characters, and not longer than a screen."""
    return Text("".join(c if c.isprintable() else "?" for c in text[:400]))
