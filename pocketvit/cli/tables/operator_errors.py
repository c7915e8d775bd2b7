"""The errors of a quantised file's operators, as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from device_bench import format

if TYPE_CHECKING:  # export loads torch, which most tables have no use for
    from export.inspect.against.operator_errors import OperatorError, OperatorErrors

_MOST_ROWS = 30
_MOST_NAMES = 6
_UNLIKE_DB = 3.0
"""Files whose outputs have less SQNR than this are hardly of the same model."""

_UNCHANGED = ("RESHAPE", "TRANSPOSE", "DEQUANTIZE")
"""Operators that change no value; tables in another order than the file's leave them out."""


def operator_error_tables(found: OperatorErrors, sort: Literal["worst", "lost", "graph"]) -> list[RenderableType]:
    """Returns the outputs' error, the errors by part of the model and by operator, and what has no counterpart."""
    from export.inspect.against.operator_errors import by_error

    computing = [row for row in found.operators if row.op not in _UNCHANGED]
    if sort == "graph":
        rows, title = list(found.operators), "all operators in the order of the file"
    elif sort == "lost":
        rows = by_error(computing, lambda row: None if row.lost_db is None else -row.lost_db)
        title = "operators that lose most"
    else:
        rows, title = by_error(computing, lambda row: row.sqnr_db), "operators with the least SQNR"
    if sort != "graph" and len(rows) > _MOST_ROWS:
        title += f", {_MOST_ROWS} of {len(rows)} (--sort graph and --json have all)"
        rows = rows[:_MOST_ROWS]
    parts = _table(f"{found.file} against {found.against}, by part", ("part", "operator", "type"))
    for heading in ("count", "least SQNR", "median SQNR", "median lost"):
        parts.add_column(heading, justify="right")
    for part in found.parts:
        if part.op not in _UNCHANGED:
            figures = (_level(part.least_db), _level(part.median_db), _lost(part.lost_db))
            parts.add_row(_shown(part.part), _shown(part.op), part.dtype, str(part.count), *figures)
    return [parts, _operators(title, rows), *_notes(found), _outputs(found)]


def _operators(title: str, rows: list[OperatorError]) -> Table:
    from export.inspect.against.operator_errors import EXACT_INPUTS, IDENTICAL

    table = _table(title, ("tensor", "operator", "type"))
    for heading in ("SQNR", "before", "lost"):
        table.add_column(heading, justify="right")
    for row in rows:
        name = _shown(row.name)
        if row.basis != "same":
            name.append(f" ({row.basis})")
        sqnr = "identical" if row.reason == IDENTICAL else format.decibels(row.sqnr_db)
        before = "exact" if row.before_reason == EXACT_INPUTS else format.decibels(row.before_db)
        table.add_row(name, _shown(row.op), row.dtype, sqnr, before, _lost(row.lost_db))
    return table


def _level(decibels: float | None) -> str:
    return "identical" if decibels is None else format.decibels(decibels)


def _lost(decibels: float | None) -> str:
    # adding 0 makes a negative nothing a nothing
    return format.decibels(None if decibels is None else round(decibels, 1) + 0.0)


def _notes(found: OperatorErrors) -> list[Text]:
    from export.inspect.against.operator_errors import OTHER_QUANTITY, TOO_FEW_IMAGES

    notes = []
    turned = [row for row in found.operators if row.basis != "same"]
    unlike = sum(row.reason in (OTHER_QUANTITY, TOO_FEW_IMAGES) for row in found.operators)
    if turned:
        notes.append(
            f"{len(turned)} tensors are scaled, rotated or mapped in {found.file}: the change of basis is fitted to "
            f"every second image, and the error measured on the others. {unlike} more cannot be compared."
        )
    notes.append(f"{found.matched} tensors were matched by name.{_names(found.file, found.only_here)}")
    notes[-1] += _names(found.against, found.only_there)
    if found.ambiguous:
        notes.append(f"{found.ambiguous} tensors share their name with another and were left out.")
    return [Text(note) for note in notes]


def _names(file: str, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    some = ", ".join(str(_shown(name)) for name in names[:_MOST_NAMES])
    return f" {file} has {len(names)} without a counterpart ({some}{', …' if len(names) > _MOST_NAMES else ''})."


def _outputs(found: OperatorErrors) -> Text:
    agrees = "" if found.top1_agreement is None else f", same top-1 on {format.percent(found.top1_agreement)}"
    level = format.decibels(found.sqnr_db) if found.reason is None else f"unknown, {found.reason}"
    line = f"Outputs: SQNR {level}{agrees} of {found.images} images ({found.source})"
    warnings = []
    if not found.real:
        warnings.append("NOT REAL PICTURES: figures differ on real ones; name some with --images")
    if found.sqnr_db is not None and found.sqnr_db < _UNLIKE_DB:
        warnings.append("HARDLY ALIKE: the two files may not be of the same model")
    return Text("\n".join([line, *warnings]), "bold red" if warnings else "")


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(header_style="bold", title=title, title_justify="left")
    for heading in columns:
        table.add_column(heading, overflow="fold" if heading != "type" else "ellipsis")
    return table


def _shown(text: str) -> Text:
    """Returns a text from a file, shortened and without control characters."""
    return Text("".join(c if c.isprintable() else "?" for c in text[:80]))
