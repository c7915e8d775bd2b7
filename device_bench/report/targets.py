"""The sections of the report on one target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_bench import format
from device_bench.columns import Column, of_view
from device_bench.documents.results import BenchResult
from device_bench.metrics import METRICS
from device_bench.metrics.base import REFERENCE, Measured, Metric, said_once
from device_bench.metrics.latency import conditions
from device_bench.report.render.document import (
    FigurePanel,
    Footnotes,
    Matrices,
    PageBlock,
    Paragraph,
    Section,
    Subheading,
    Table,
    blocks,
    bullets,
    paragraph,
    table,
)

from .confusions import confusions
from .pictures import latency_drawing, shapes_drawing, tradeoff_drawing
from .rows import SummaryRow
from .summary import RunSummary
from .tradeoffs import Tradeoff, accuracy_words, short_names, tradeoffs

_NO_TIME = (
    "Emulated: no time, memory or energy of it would mean anything. What stands for cost are the instructions that the "
    "emulated processor executes."
)


@dataclass(frozen=True)
class TargetPart:
    """One target of the report.

    Attributes:
        summary: the run.
        target: name of the target.
        bench: the bench on that target.
        measured: figures of each file.
        number: place of the target in the report, from 0.
    """

    summary: RunSummary
    target: str
    bench: BenchResult
    measured: tuple[Measured, ...]
    number: int

    @property
    def suffix(self) -> str:
        """Text after headings, where there are several targets."""
        return f" on {self.target}" if len(self.summary.targets) > 1 else ""

    @property
    def tail(self) -> str:
        """Text after the names of drawings and anchors."""
        return f"-{self.number + 1}" if self.number else ""

    @property
    def conditions(self) -> str:
        """Batch and threads of the latencies."""
        return conditions(self.measured)

    @property
    def warnings(self) -> list[PageBlock]:
        """Remarks that qualify every figure."""
        notes = (_NO_TIME, *self.bench.notes) if self.bench.emulated else self.bench.notes
        return [Paragraph(note, "warning") for note in notes]

    @property
    def footnotes(self) -> Footnotes | None:
        """Remarks that qualify the figures of single files."""
        notes = [(own.file.file, note) for own in self.measured for note in own.file.notes]
        items = tuple((number, file, note) for number, (file, note) in enumerate(notes, 1))
        return Footnotes(f"note{self.tail}", items) if items else None

    @property
    def columns(self) -> list[Column[SummaryRow]]:
        """Columns of the main figures, for the rows of the run's table."""
        found = [column for metric in METRICS.values() for column in of_view(metric.columns, "models")]
        return [column.of(lambda row: self.summary.measured(row, self.target)) for column in found]


def target_parts(summary: RunSummary) -> list[TargetPart]:
    """Returns the targets of a run, the first one first."""
    return [
        TargetPart(summary, target, summary.bench_on(target)[1], summary.measured_on(target), number)
        for number, target in enumerate(summary.targets)
    ]


def main_section(part: TargetPart) -> Section:
    """Returns the main figures of a target that is not the first."""
    conditions = f"Latency is per run {part.conditions}; brackets are 95 % bootstrap intervals."
    rows = [row for row in part.summary.rows if row.on(part.target)]
    made = table("File", part.columns, rows, lambda row: row.name, footnotes=part.footnotes)
    note = None if part.bench.emulated else Paragraph(conditions)
    return Section(f"On {part.target}", blocks(note, part.warnings, made, part.footnotes))


def target_sections(part: TargetPart) -> list[Section]:
    """Returns what accuracy costs, the latencies, and a section for each metric.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    found = [_tradeoffs(part), _latencies(part)]
    return [section for section in found if section] + _metric_sections(part)


def _tradeoffs(part: TargetPart) -> Section | None:
    found = tradeoffs(part.summary, part.target)
    if part.bench.emulated:  # what stands for time comes first
        found = tuple(sorted(found, key=lambda one: one.what != "instructions"))
    names = short_names([own.file.file for own in part.measured])
    drawn = tradeoff_drawing(f"tradeoffs{part.tail}", part.target, found, names)
    if drawn is None:
        return None
    words = accuracy_words(found, part.summary, part.target)
    if not part.bench.emulated:
        words += f" Latency is the median {part.conditions}."
    caption = (
        "Coloured, on the line: the Pareto frontier, no other file is as cheap and as accurate and better in one of "
        "the two. Grey: another file beats it."
    )
    if any(not point.on_target for one in found for point in one.points):
        caption += " Hollow: its top-1 was measured at export, not on the target."
    picture = FigurePanel(drawn, "even", caption)
    return Section(f"What accuracy costs{part.suffix}", blocks(Paragraph(words), picture, _tradeoff_table(part, found)))


def _tradeoff_table(part: TargetPart, found: Sequence[Tradeoff]) -> Table | None:
    points = {point.file: point for one in found for point in one.points}
    mixed = len({point.on_target for point in points.values()}) > 1

    def where(file: str) -> str:
        return "" if not mixed else "on the target" if points[file].on_target else "at export"

    def cost(one: Tradeoff) -> Column[str]:
        costs = {point.file: one.show(point.cost) for point in one.points}
        return Column(one.what.capitalize(), costs.get)

    def best(file: str) -> str | None:
        return ", ".join(one.what for one in found if file in {point.file for point in one.frontier}) or None

    columns = (
        Column[str]("Top-1", lambda file: points[file].top1, format.percent, where),
        *map(cost, found),
        Column("On the frontier of", best),
    )
    files = [own.file.file for own in part.measured if own.file.file in points]
    return table("File", columns, files, str, footnotes=part.footnotes)


def _latencies(part: TargetPart) -> Section | None:
    results = [own.file for own in part.measured]
    drawn = latency_drawing(f"latency{part.tail}", part.target, results)
    shapes = shapes_drawing(f"shapes{part.tail}", part.target, results, short_names([own.file for own in results]))
    if drawn is None or shapes is None:
        return None
    unsteady = [own.file for own in results if own.latency and not own.latency.steady]
    note = f"The warm-up of {', '.join(unsteady)} reached its cap before the latency had settled." if unsteady else ""
    return Section(
        f"Latency{part.suffix}",
        blocks(
            Paragraph(
                "Every file had its turn in every round, in an order drawn anew, so a slow spell of the machine hits "
                "all alike."
            ),
            FigurePanel(
                drawn,
                "wide",
                "Box: quartiles and median. Whiskers: 5th to 95th percentile. Dots: single runs, thinned evenly; those "
                "beyond the 99th percentile are not drawn but count in every figure.",
            ),
            Subheading("The shape of each"),
            FigurePanel(
                shapes,
                "even",
                "How often each latency came, in ms, every file on a scale of its own, so that two hills are two "
                "modes. Solid line: median (p50). Dashed: p90. Dotted: p99, where it is not beyond the edge; the "
                "slowest few are not drawn but count.",
            ),
            paragraph(note),
        ),
    )


def _metric_sections(part: TargetPart) -> list[Section]:
    """Returns a section for each group of metrics that has a figure or a remark."""
    groups: dict[str, dict[str, list[Metric]]] = {}
    for metric in METRICS.values():
        if metric.section is not None and (metric.emulated or not part.bench.emulated):
            title = metric.section or metric.title[:1].upper() + metric.title[1:]
            groups.setdefault(title, {}).setdefault(metric.part, []).append(metric)
    found = []
    for title, parts in groups.items():
        made = blocks(*(_metric_blocks(part, heading, metrics) for heading, metrics in parts.items()))
        if made:
            heading = title.replace("{target}", part.target)
            found.append(Section(heading if heading != title else f"{title}{part.suffix}", made))
    missing = [
        metric.title
        for metric in METRICS.values()
        if metric.optional and part.measured and not any(metric.held_by(own.file) for own in part.measured)
    ]
    if found and missing and not part.bench.emulated:
        words = Paragraph(f"Not measured on {part.target}: {', '.join(missing)}.", "note after")
        found[0] = Section(found[0].title, (*found[0].blocks, words))
    return found


def _metric_blocks(part: TargetPart, heading: str, metrics: Sequence[Metric]) -> tuple[PageBlock, ...]:
    columns = [column for metric in metrics for column in of_view(metric.columns, "report")]
    made = table("File", columns, part.measured, lambda own: own.file.file, footnotes=part.footnotes)
    remarks = [remark for metric in metrics for remark in metric.remarks(part.measured)]
    if made is None and not remarks:
        return ()
    note = " ".join(filter(None, (metric.note(part.measured) for metric in metrics))) if made else ""
    return blocks(
        Subheading(heading) if heading else None,
        paragraph(note),
        made,
        bullets(said_once(remarks, len(part.measured))),
        _matrices(part) if any(metric.name == "accuracy" for metric in metrics) else None,
    )


def _matrices(part: TargetPart) -> Matrices | None:
    found = confusions(part.summary, [own.file for own in part.measured])
    if found is None:
        return None
    if found.matrices:
        note = (
            "Rows: the true class. Columns: the answer. Blue: right, stronger the larger the share of the class. "
            "Orange: wrong."
        )
        more = f" Framed, with the change below: differs from {REFERENCE}." if found.compared else ""
        return Matrices(found, note + more)
    change = f", and the change against {REFERENCE}" if found.referenced and len(found.files) > 1 else ""
    note = (
        f"{len(found.names)} classes are too many for a matrix: the confusions that any file had most often, in "
        f"images{change}."
    )
    return Matrices(found, note)
