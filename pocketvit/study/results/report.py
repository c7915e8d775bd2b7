"""The report of a study: one page for people, the same in Markdown, and the table as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from device_bench import format
from device_bench.columns import Column
from device_bench.documents.figures import dense
from device_bench.report.confusions import MOST_CLASSES
from device_bench.report.render.document import (
    FigurePanel,
    Fold,
    Matrices,
    PageBlock,
    Paragraph,
    ReportPage,
    Section,
    Subheading,
    blocks,
    bullets,
    table,
)
from device_bench.report.render.matrices import Confusions, Matrix, matrix_cells, short_heads
from device_bench.report.render.save import save
from runtime import write_bytes

from .collect import Failed, StudyResult, StudyRow
from .columns import COMPARISON_COLUMNS, columns, name_of
from .figures import accuracy_drawing, cost_drawing
from .writing import as_csv

_FOOTER = "Made from the run folders next to it; never edited by hand."


def _where(own: Failed) -> str:
    return f"(on {own.where})" if own.where else ""


_MISSING: tuple[Column[Failed], ...] = (
    Column("Why", lambda own: own.error, detail=_where, joined=True, long=True),
    Column("Command", lambda own: own.command, code=True, long=True),
)
_UNMEASURED: tuple[Column[tuple[str, str]], ...] = (Column("Why", lambda own: own[1], long=True),)


def write_study_report(result: StudyResult, root: Path) -> tuple[Path, ...]:
    """Writes ``report.html``, ``report.md`` with its pictures, and ``table.csv`` into a study's folder.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: a file cannot be written.
    """
    markdown, html = save(study_page(result), root)
    write_bytes(root / "table.csv", as_csv(result).encode())
    return html, markdown, root / "table.csv"


def study_page(result: StudyResult) -> ReportPage:
    """Returns the report of a study as data.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    groups = dict.fromkeys((row.model, row.data) for row in result.rows)
    sections = [
        _missing(result),
        _unmeasured(result),
        *(_section(result, model, data, place) for place, (model, data) in enumerate(groups)),
        _method(result),
    ]
    methods = format.plural(len({row.method for row in result.rows}), "method")
    words = f"{methods}; seeds {', '.join(map(str, result.seeds))}; {format.plural(result.threads, 'thread')} each."
    if result.failed:
        cells = format.plural(len(result.failed), "cell")
        words += f" {cells} of it {'is' if len(result.failed) == 1 else 'are'} missing."
    return ReportPage("PocketViT study", result.name, words, tuple(filter(None, sections)), _FOOTER)


def _missing(result: StudyResult) -> Section | None:
    made = table("Cell", _MISSING, result.failed, lambda own: own.cell, style="text verbatim")
    note = Paragraph("No figure of theirs is in what follows.")
    return Section("Missing cells", (note, made), failed=True) if made else None


def _unmeasured(result: StudyResult) -> Section | None:
    made = table("What", _UNMEASURED, result.unmeasured, lambda own: own[0], style="text")
    return Section("Not measured", (made,), failed=True) if made else None


def _section(result: StudyResult, model: str, data: str, place: int) -> Section:
    """Returns the section on one model and dataset."""
    rows = tuple(row for row in result.rows if (row.model, row.data) == (model, data))
    compared = [own for own in result.comparisons if (own.model, own.data) == (model, data)]
    kind = compared[0].kind if compared else _plainest(rows)
    made = table(
        "Method and file", columns(result.targets), rows, lambda row: name_of(row, rows), style="study", wide=True
    )
    return Section(
        f"{model} on {data}",
        blocks(
            Paragraph(_note(result)),
            made,
            _pictures(result, rows, kind, place),
            _comparisons(result, model, data, kind),
            _confusions(result, rows, kind, data),
            Subheading("The commands"),
            Paragraph("Each makes its cell from nothing, and with as many threads to the bit."),
            [Fold(label, code=commands) for label, commands in {row.label: row.commands for row in rows}.items()],
        ),
    )


def _note(result: StudyResult) -> str:
    parts = [
        "Each figure is the mean over seeds ± their standard deviation; without one, all seeds have the same, or there "
        "is one alone. Top-1 is of all test images, answered by the file on the machine that made it. FLOPs are two "
        "for each multiply-accumulate of one image. gzip is the file packed by gzip. Training is seconds of work until "
        "the model was done, pauses left out, and a model that several cells start from counted in full for each."
    ]
    if result.targets:
        parts.append(
            "Latency is the median of each seed's file; the files of all cells took turns, and nothing else ran."
        )
    parts += _tiers(result)
    if result.grid:
        parts.append(f"CO₂ is reckoned with {result.grid}, idle power included.")
    return " ".join(parts)


def _pictures(result: StudyResult, rows: Sequence[StudyRow], kind: str, place: int) -> list[PageBlock]:
    found: list[PageBlock] = []
    accuracy, costs = accuracy_drawing(rows, kind, place), cost_drawing(rows, result, kind, place)
    if accuracy:
        caption = "Dots: seeds. Line: their mean. Bar: one standard deviation to each side."
        found += [Subheading("Accuracy"), FigurePanel(accuracy, "wide", caption)]
    if costs:
        caption = (
            f"Means over seeds of the {kind} files. Coloured, on the line: nothing else is as cheap and as accurate "
            "and better in one of the two."
        )
        found += [Subheading("What accuracy costs"), FigurePanel(costs, "even", caption)]
    return found


def _comparisons(result: StudyResult, model: str, data: str, kind: str) -> tuple[PageBlock, ...]:
    compared = [own for own in result.comparisons if (own.model, own.data) == (model, data)]
    made = table("First", COMPARISON_COLUMNS, compared, lambda own: own.first, style="study", wide=True)
    if made is None:
        return ()
    note = (
        f"Of the {kind} files. Seeds: a t-test of the differences, paired by seed; it asks whether other seeds would "
        "show the same, and with few of them it can show large differences alone. Images: McNemar's exact test of who "
        "answered which image right, for each seed, combined as twice the mean of the p-values; it asks whether these "
        "very models differ, not whether the methods do. Both are held by Holm's correction to the "
        f"{format.plural(len(compared), 'comparison')} of this table; an asterisk marks p ≤ {result.alpha}. Last: "
        "images that only the first, and only the second, got right, by seed."
    )
    reasons = dict.fromkeys(test.reason for own in compared for test in (own.seeds, own.images) if test.reason)
    untested = [Paragraph(f"No figure: {reason}", "note after") for reason in reasons]
    return blocks(Subheading("Which differences in accuracy are significant"), Paragraph(note), made, untested)


def _confusions(result: StudyResult, rows: Sequence[StudyRow], kind: str, data: str) -> PageBlock | None:
    names = result.class_names.get(data, ())
    if len(names) > MOST_CLASSES:
        return Paragraph(f"{len(names)} classes are too many for confusion matrices: --json has them.")
    matrices = tuple(
        Matrix(name_of(row, rows).removesuffix(f" {kind}"), matrix_cells(dense(row.confusion, len(names))))
        for row in rows
        if row.kind == kind and row.confusion and names
    )
    note = (
        f"Test images of all seeds, by the {kind} files. Rows: the true class. Columns: the answer. Blue: right. "
        "Orange: wrong."
    )
    return Matrices(Confusions(matrices, *short_heads(names)), note) if matrices else None


def _method(result: StudyResult) -> Section | None:
    """Returns the commands that measured, and what must be known of the machines."""
    if not result.measured_by:
        return None
    folds = [Fold(f"The command on {target}", code=(command,)) for target, command in result.measured_by.items()]
    return Section("How it was measured", blocks(folds, bullets(result.notes)))


def _plainest(rows: Sequence[StudyRow]) -> str:
    kinds = [row.kind for row in rows]
    return next((kind for kind in ("fp32", "onnx") if kind in kinds), kinds[0])


def _tiers(result: StudyResult) -> list[str]:
    """Returns how energies are known, and why one is not."""
    words: dict[str, None] = {}
    for row in result.rows:
        for own in row.targets:
            energy, carbon = own.figures["joules_per_image"], own.figures["grams_co2_per_image"]
            if own.energy_tier in ("measured", "estimated"):
                words[f"On {own.target} energy is {own.energy_tier}."] = None
            elif energy.reason and own.figures["latency_s"].mean is not None:
                words[f"On {own.target} there is no energy: {energy.reason}"] = None
            if energy.mean is not None and carbon.mean is None:
                words[f"There is no CO₂: {carbon.reason}"] = None
    return list(words)
