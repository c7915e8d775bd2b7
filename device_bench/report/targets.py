"""What the report says of one target: every figure measured there, beside what must be known of it."""

from __future__ import annotations

from dataclasses import dataclass

from device_bench import format
from device_bench.documents.results import BenchResult, FileResult

from .confusions import Confusions, confusions
from .grids import Grid, accuracy_grid, count_grid, energy_grid, energy_notes, start_grid, work_grid
from .overview import counted
from .pictures import Figure, latency_figure, shapes_figure, tradeoff_figure
from .summary import RunSummary, SummaryRow
from .tradeoffs import Tradeoff, accuracy_words, short_names, tradeoffs

_NO_TIME = (
    "Emulated: no time, memory or energy of it would mean anything. What stands for cost are the instructions that the "
    "emulated processor executes."
)
_NEVER_ASKED = {
    "load and first inference": lambda result: result.startup is None,
    "throughput": lambda result: not result.throughput,
    "energy": lambda result: result.energy is None,
    "accuracy on the target": lambda result: result.accuracy is None,
}


@dataclass(frozen=True)
class TradeoffRow:
    """A file in the table below the pictures of trade-offs.

    Attributes:
        file: its name.
        top1: accuracy as text.
        where: it was measured, where that differs between the files.
        costs: each trade-off's name and cost as text.
        frontier: the trade-offs in which nothing beats the file.
    """

    file: str
    top1: str
    where: str
    costs: tuple[tuple[str, str], ...]
    frontier: str


@dataclass(frozen=True)
class TargetPart:
    """One target of the report.

    Attributes:
        target: its name.
        suffix: for headings, where there are several targets.
        emulated: whether it has instructions in the place of times.
        anchor: begins the ids of its notes.
        conditions: batch and threads of its latencies.
        rows: of the files measured there.
        warnings: what qualifies all figures.
        notes: number, file and what qualifies the figures of that file.
        unsteady: files whose warm-up never settled.
        tradeoffs: accuracy beside each cost.
        tradeoff_rows: the same as a table.
        accuracy_words: where those accuracies come from.
        counts: instructions, on an emulated target.
        start: load, first inference and percentiles.
        work: throughput and arithmetic.
        peaks: how the machine's peaks were found.
        energy: of an image.
        energy_notes: where it comes from, or why there is none.
        accuracy: on the target.
        confusions: what was taken for what.
        missing: what this bench did not measure of any file.
        figures: ``tradeoffs``, ``latency`` and ``shapes``, null where there is nothing to draw.
    """

    target: str
    suffix: str
    emulated: bool
    anchor: str
    conditions: str
    rows: tuple[SummaryRow, ...]
    warnings: tuple[str, ...]
    notes: tuple[tuple[int, str, str], ...]
    unsteady: tuple[str, ...]
    tradeoffs: tuple[Tradeoff, ...]
    tradeoff_rows: tuple[TradeoffRow, ...]
    accuracy_words: str
    counts: Grid | None
    start: Grid | None
    work: Grid | None
    peaks: tuple[str, ...]
    energy: Grid | None
    energy_notes: tuple[str, ...]
    accuracy: Grid | None
    confusions: Confusions | None
    missing: tuple[str, ...]
    figures: dict[str, Figure | None]

    @property
    def hollow(self) -> bool:
        """Whether an accuracy in the trade-offs is not of the target."""
        return any(not point.on_target for one in self.tradeoffs for point in one.points)

    def marks(self, file: str) -> tuple[int, ...]:
        """Returns the numbers of the notes of a file."""
        return tuple(number for number, name, _ in self.notes if name == file)


def target_parts(summary: RunSummary) -> list[TargetPart]:
    """Returns what there is to say of each target, the first one first.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return [_part(summary, target, index) for index, target in enumerate(summary.targets)]


def _part(summary: RunSummary, target: str, index: int) -> TargetPart:
    _, bench = summary.bench_on(target)
    results = summary.results_on(target)
    rows = tuple(row for row in summary.rows if row.on(target))
    pairs = [(result, timing) for row, result in zip(rows, results, strict=True) if (timing := row.on(target))]
    found = (*counted(summary, target), *tradeoffs(summary, target))
    names = short_names([result.file for result in results])
    tail = f"-{index + 1}" if index else ""
    notes = [(result.file, note) for result in results for note in result.notes]
    return TargetPart(
        target=target,
        suffix=f" on {target}" if len(summary.targets) > 1 else "",
        emulated=bench.emulated,
        anchor=f"note{tail}",
        conditions=_conditions(results),
        rows=rows,
        warnings=(_NO_TIME, *bench.notes) if bench.emulated else bench.notes,
        notes=tuple((number, file, note) for number, (file, note) in enumerate(notes, 1)),
        unsteady=tuple(result.file for result in results if result.latency and not result.latency.steady),
        tradeoffs=found,
        tradeoff_rows=_tradeoff_rows(found, rows),
        accuracy_words=accuracy_words(found, summary, target) if found else "",
        counts=count_grid(pairs) if bench.emulated else None,
        start=None if bench.emulated else start_grid(pairs),
        work=None if bench.emulated else work_grid(bench, pairs),
        peaks=_peaks(bench),
        energy=energy_grid(results),
        energy_notes=tuple(energy_notes(results)),
        accuracy=accuracy_grid(summary, results),
        confusions=confusions(summary, results),
        missing=tuple(what for what, lacks in _NEVER_ASKED.items() if all(map(lacks, results))),
        figures={
            "tradeoffs": tradeoff_figure(f"tradeoffs{tail}", target, found, names),
            "latency": latency_figure(f"latency{tail}", target, results),
            "shapes": shapes_figure(f"shapes{tail}", target, results, names),
        },
    )


def _tradeoff_rows(found: tuple[Tradeoff, ...], rows: tuple[SummaryRow, ...]) -> tuple[TradeoffRow, ...]:
    made = []
    mixed = len({point.on_target for one in found for point in one.points}) > 1
    for row in rows:
        points = [(one, next((point for point in one.points if point.file == row.name), None)) for one in found]
        own = next((point for _, point in points if point), None)
        if own is None:
            continue
        costs = tuple((one.what, one.show(point.cost) if point else format.MISSING) for one, point in points)
        best = ", ".join(one.what for one, point in points if point in one.frontier)
        where = "" if not mixed else "on the target" if own.on_target else "at export"
        made.append(TradeoffRow(row.name, format.percent(own.top1), where, costs, best or format.MISSING))
    return tuple(made)


def _conditions(results: tuple[FileResult, ...]) -> str:
    """Returns under what the latencies were measured."""
    batches = format.listed([str(batch) for batch in sorted({result.batch for result in results})])
    threads = sorted({result.threads for result in results})
    words = "1 thread" if threads == [1] else f"{format.listed([str(number) for number in threads])} threads"
    return f"at batch {batches}, {words}"


def _peaks(bench: BenchResult) -> tuple[str, ...]:
    return tuple(
        f"{format.gflops(peak.best)} in {peak.arithmetic} ({peak.engine}, {format.plural(peak.threads, 'thread')})"
        for peak in bench.peaks
    )
