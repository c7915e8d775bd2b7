"""The report of a study: one page for people, self-contained, the same in Markdown, and the table as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from device_bench import format
from device_bench.documents.figures import dense
from runtime import MissingExtraError, write_bytes

from . import words
from .collect import Row, StudyResult
from .figures import accuracy_figure, cost_figure
from .writing import as_csv

MOST_CLASSES = 20
"""Classes up to which a confusion matrix can be read."""

_LEVELS = 5


@dataclass(frozen=True)
class Block:
    """What is told of one model and dataset.

    Attributes:
        title: of the block.
        kind: of the files that are compared.
        rows: of the table.
        names: of the rows.
        headings: of the columns.
        cells: by row.
        accuracy: picture of the accuracies.
        costs: picture of what they cost.
        comparisons: first, second, difference, counts, and both tests, as text.
        untested: why a test has no figure.
        matrices: confusion matrices, with the rows' names.
        class_names: of them.
        commands: what made each method's cells, by seed.
    """

    title: str
    kind: str
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    headings: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    accuracy: Any
    costs: Any
    comparisons: tuple[tuple[str, ...], ...]
    untested: tuple[str, ...]
    matrices: tuple[tuple[str, tuple[tuple[tuple[int, str], ...], ...]], ...]
    class_names: tuple[str, ...]
    commands: tuple[tuple[str, tuple[str, ...]], ...]


def write_report(result: StudyResult, root: Path) -> tuple[Path, ...]:
    """Writes ``report.html``, ``report.md`` with its pictures, and ``table.csv`` into a study's folder.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: a file cannot be written.
    """
    blocks = tuple(
        block(result, model, data, place)
        for place, (model, data) in enumerate(dict.fromkeys((row.model, row.data) for row in result.rows))
    )
    context = {"result": result, "blocks": blocks, "f": format, "w": words, "style": _style(), "tiers": _tiers(result)}
    context["most"] = MOST_CLASSES
    written = []
    for name, escaped in (("report.html", True), ("report.md", False)):
        source = files(__package__).joinpath(f"{name}.j2").read_text(encoding="utf-8")
        text = _environment(escaped).from_string(source).render(context)
        write_bytes(root / name, (text.rstrip() + "\n").encode())
        written.append(root / name)
    for own in blocks:
        for drawn in (own.accuracy, own.costs):
            if drawn is not None:
                write_bytes(root / drawn.file, drawn.svg.encode())
    write_bytes(root / "table.csv", as_csv(result).encode())
    return (*written, root / "table.csv")


def block(result: StudyResult, model: str, data: str, place: int) -> Block:
    """Returns what the report tells of one model and dataset.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = tuple(row for row in result.rows if (row.model, row.data) == (model, data))
    compared = [own for own in result.comparisons if (own.model, own.data) == (model, data)]
    kind = compared[0].kind if compared else _plainest(rows)
    table = words.columns(rows, result.targets)
    names = tuple(words.name_of(row, rows) for row in rows)
    reasons = dict.fromkeys(test.reason for own in compared for test in (own.seeds, own.images) if test.reason)
    own_classes = result.class_names.get(data, ())
    return Block(
        title=f"{model} on {data}",
        kind=kind,
        rows=rows,
        names=names,
        headings=tuple(table),
        cells=tuple(tuple(cells[index] for cells in table.values()) for index in range(len(rows))),
        accuracy=accuracy_figure(rows, kind, place),
        costs=cost_figure(rows, result, kind, place),
        comparisons=tuple(
            (
                own.first,
                own.second,
                words.difference(own),
                words.outcome_of(own.seeds),
                words.outcome_of(own.images),
                " ".join(f"{a}:{b}" for a, b in zip(own.only_first_right, own.only_second_right, strict=True)),
            )
            for own in compared
        ),
        untested=tuple(filter(None, reasons)),
        matrices=tuple(
            (name.removesuffix(f" {kind}"), _levels(dense(row.confusion, len(own_classes))))
            for name, row in zip(names, rows, strict=True)
            if row.kind == kind and row.confusion and 0 < len(own_classes) <= MOST_CLASSES
        ),
        class_names=own_classes,
        commands=tuple({row.label: row.commands for row in rows}.items()),
    )


def _plainest(rows: Sequence[Row]) -> str:
    kinds = [row.kind for row in rows]
    return next((kind for kind in ("fp32", "onnx") if kind in kinds), kinds[0])


def _levels(confusion: Sequence[Sequence[int]]) -> tuple[tuple[tuple[int, str], ...], ...]:
    """Returns each count with the class of its colour: by its share of the row, errors by the root of it."""
    rows = []
    for i, row in enumerate(confusion):
        total = sum(row) or 1
        shares = [count / total if i == j else (count / total) ** 0.5 for j, count in enumerate(row)]
        rows.append(
            tuple(
                (count, f"{'r' if i == j else 'w'}{max(1, round(_LEVELS * share)) if count else 0}")
                for j, (count, share) in enumerate(zip(row, shares, strict=True))
            )
        )
    return tuple(rows)


def _tiers(result: StudyResult) -> tuple[str, ...]:
    """Returns how energies are known, and why one is not."""
    told: dict[str, None] = {}
    for row in result.rows:
        for own in row.targets:
            figure = own.joules_per_image
            if own.energy_tier in ("measured", "estimated"):
                told[f"On {own.target} energy is {own.energy_tier}."] = None
            elif figure.reason and own.latency_s.mean is not None:
                told[f"On {own.target} there is no energy: {figure.reason}"] = None
            if figure.mean is not None and own.grams_co2_per_image.mean is None:
                told[f"There is no CO₂: {own.grams_co2_per_image.reason}"] = None
    return tuple(told)


def _style() -> str:
    """Returns the style of the reports of single runs, which this one shares."""
    source = files("device_bench.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    style = source.partition("<style>")[2].partition("</style>")[0]
    return str(_environment(False).from_string(style).render())


def _environment(escaped: bool) -> Any:
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "bench") from None
    environment = jinja2.Environment(
        autoescape=escaped, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    return environment


def _cell(text: object) -> str:
    """Returns text that stays inside its Markdown table cell and means no markup."""
    escaped = str(text).replace("\\", "\\\\")
    for mark in "|`*_[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped.replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
