"""The report of a run: ``report.html`` and ``report.md``, made of the same sections."""

from __future__ import annotations

from pathlib import Path

from device_bench.report.render.document import (
    FigurePanel,
    Paragraph,
    ReportPage,
    Section,
    blocks,
    bullets,
    paragraph,
    table,
)
from device_bench.report.render.save import save
from runtime import ShapePlan

from .machine import machine_section, sources_section
from .op_times import times_section
from .pictures import training_drawing, widths_drawing
from .rows import ROW_COLUMNS
from .search import search_section
from .summary import RunSummary, summarise
from .tables import calibration, class_losses, failures, gains_section, overview, parity, refusals
from .targets import TargetPart, main_section, target_parts, target_sections
from .verdict import tiles, verdict
from .zeros import zeros_section

_FOOTER = "Made by PocketViT from the files of this run folder; every figure can be computed again from them."


def write_report(run: Path | str) -> tuple[Path, Path]:
    """Writes ``report.md`` and ``report.html`` into a run folder, and the Markdown's pictures next to them.

    The same folder gives the same bytes.

    Args:
        run: the run folder.

    Returns:
        The paths of ``report.md`` and ``report.html``.

    Raises:
        RunFolderError: ``run`` is no run folder.
        ArtifactError: a document or file in it is damaged.
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: the report cannot be written.
    """
    run = Path(run)
    return save(run_page(summarise(run), run), run)


def run_page(summary: RunSummary, run: Path) -> ReportPage:
    """Returns the report of a run as data.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    parts = target_parts(summary)
    # the models' table has times; instruction counts have their own table
    first = parts[0] if parts and not parts[0].bench.emulated else None
    times, timed = times_section(summary, run)
    search, log = search_section(summary, run)
    sections: list[Section | None] = [
        refusals(summary),
        failures(summary),
        overview(summary),
        _models(summary, first),
        *(target_sections(first) if first else []),
    ]
    for part in parts[1:] if first else parts:
        sections += [main_section(part), *target_sections(part)]
    sections += [
        times,
        gains_section(summary),
        zeros_section(summary, run),
        search,
        _widths(summary),
        _training(summary),
        parity(summary),
        class_losses(summary),
        calibration(summary),
        *map(machine_section, summary.benches.values()),
        sources_section(summary, log, timed),
    ]
    kept = tuple(section for section in sections if section)
    return ReportPage("PocketViT report", summary.name, verdict(summary), kept, _FOOTER, tiles(summary))


def _models(summary: RunSummary, first: TargetPart | None) -> Section:
    """Returns the baseline, the sliced model and every file in one table."""
    words = [
        "Size of the two models is that of their float32 weights; gzip: of the file when compressed. Top-1 of the "
        "files is that at export.",
    ]
    if any(row.whole_agreement is not None for row in summary.rows):
        words.append(
            "The whole model is the baseline. Agreement with it is the share of test images with the same top-1 class, "
            "and the cosine is that of the vectors that the two classifiers read; neither needs labels."
        )
    if any(row.whole_cosine is not None and row.whole_agreement is None for row in summary.rows):
        words.append(
            "The whole model is the baseline, and the cosine is the mean over test images of that of the two vectors. "
            "Neighbours are the share of images whose nearest neighbour, in an index of the whole model's vectors of "
            "the other images, is among the ten nearest to the vector of this model. Of a grid, both figures are those "
            "of its patches: the mean over all, and the neighbours of at most 2,000 among the patches of other images."
        )
    if first:
        words.insert(
            0, f"Latency is per run on {first.target} {first.conditions}; brackets are 95 % bootstrap intervals."
        )
        words.append(
            "Speed-up is the median of baseline.fp32.tflite over that of the file, both measured turn by turn. Peak "
            "memory is that of a whole process, interpreter and engine included."
        )
    if summary.made_with:
        settings = ", ".join(f"{name} {value}" for name, value in summary.made_with.items())
        words.insert(0, f"Made with {settings}.")
    footnotes = first.footnotes if first else None
    columns = [*ROW_COLUMNS, *(first.columns if first else [])]
    made = table(
        "Model",
        columns,
        summary.rows,
        lambda row: row.name,
        strong=lambda row: row.precision is None,
        footnotes=footnotes,
        style="the",
    )
    gains = {gain.sentence for gain in summary.gains}
    notes = bullets([note for note in summary.notes if note not in gains])
    warnings = first.warnings if first else []
    return Section("The table", blocks(Paragraph(" ".join(words)), warnings, made, footnotes, notes))


def _widths(summary: RunSummary) -> Section | None:
    drawn = widths_drawing(summary)
    if drawn is None:
        return None
    words = _embed_note(summary.baseline.plan, summary.sliced.plan)
    return Section("Widths", blocks(paragraph(words), FigurePanel(drawn, "pairs")))


def _embed_note(baseline: ShapePlan | None, sliced: ShapePlan | None) -> str | None:
    if baseline is None or sliced is None:
        return None
    depth = f"{len(baseline.blocks)} blocks, now {len(sliced.blocks)}"
    if len(baseline.blocks) == len(sliced.blocks):
        depth = f"{len(sliced.blocks)} blocks, as before"
    same = baseline.embed_dim == sliced.embed_dim
    stream = f"{sliced.embed_dim}, as before" if same else f"{baseline.embed_dim}, now {sliced.embed_dim}"
    return f"Width of the residual stream (embed_dim): {stream}. Depth: {depth}."


def _training(summary: RunSummary) -> Section | None:
    drawn = training_drawing(summary)
    words = Paragraph("Fine-tuning of the baseline, and recovery of the sliced model.")
    return Section("Training", (words, FigurePanel(drawn))) if drawn else None
