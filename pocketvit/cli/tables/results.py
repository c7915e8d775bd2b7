"""The figures of a run and of a bench as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from device_bench import format
from device_bench.columns import Column, of_view, terminal_columns
from device_bench.documents.results import BenchResult
from device_bench.metrics import METRICS
from device_bench.metrics.base import Measured, said_once
from device_bench.report.rows import ROW_COLUMNS, SummaryRow
from device_bench.report.summary import RunSummary
from device_bench.report.tables import cost_text

from .wrapped import wrapped_tables

_FILE: tuple[Column[Measured], ...] = (
    Column("precision", lambda own: own.file.precision),
    Column("threads", lambda own: own.file.threads),
)


def metric_columns(view: str) -> list[Column[Measured]]:
    """Returns the columns of every metric that a view shows."""
    return [column for metric in METRICS.values() for column in of_view(metric.columns, view)]


def summary_tables(summary: RunSummary, width: int) -> list[Table]:
    """Returns the baseline, the sliced model and every file with costs, accuracy and speed.

    One table, or several below each other on a narrow terminal; no figure is ever broken.

    Args:
        summary: the run.
        width: width of the terminal, characters.
    """
    rows = [(summary, row, row.name) for row in summary.rows]
    return _tables(rows, width, summary.name, "sliced")


def tables_of_runs(summaries: Sequence[RunSummary], width: int) -> list[Table]:
    """Returns the baseline, and the sliced model and every file of several runs of it, as ``summary_tables`` does.

    The files of the baseline are those of the first run. A speed-up is over the baseline in the bench of its own run.

    Args:
        summaries: the runs, at least one.
        width: width of the terminal, characters.
    """
    first, rows = summaries[0], []
    for own in summaries:
        rows += [(own, row, own.name if row.name == "sliced" else row.name) for row in own.rows]
    models = [(own, row, name) for own, row, name in rows if row.precision is None]
    files = [(own, row, name) for own, row, name in rows if row.precision is not None]

    def shown(own: RunSummary, row: SummaryRow) -> bool:
        return own is first or not row.name.startswith("baseline")

    chosen = [one for one in (*models, *files) if shown(one[0], one[1])]
    return _tables(chosen, width, "", summaries[-1].name)


def _tables(rows: Sequence[tuple[RunSummary, SummaryRow, str]], width: int, name: str, end: str) -> list[Table]:
    """Returns the tables of rows, each with its run and the name that it is shown by."""
    summary = rows[0][0]
    first, *others = summary.targets or (None,)
    columns = terminal_columns(ROW_COLUMNS, [row for _, row, _ in rows])
    if first is not None:
        measured = [own.measured(row, first) for own, row, _ in rows]
        for heading, cells in terminal_columns(metric_columns("run"), measured).items():
            columns[f"{heading} here" if heading in columns else heading] = cells
    for target in others:
        timings = [row.on(str(target)) for _, row, _ in rows]
        columns[f"on {target}"] = [cost_text(timing) if timing else format.MISSING for timing in timings]
    made = ", ".join(f"{key} {value}" for key, value in summary.made_with.items())
    what = ", ".join(filter(None, (name, f"timed on {first}" if first else "")))
    title = "; ".join(filter(None, (what, made)))
    return wrapped_tables([shown for _, _, shown in rows], columns, width, title=title, end=(end,))


@dataclass(frozen=True)
class BenchTable:
    """Every figure of one target, with failures and remarks below; fitted to the terminal's width."""

    result: BenchResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields what fits the console's width."""
        result = self.result
        measured = [Measured(result, file) for file in result.files]
        columns = terminal_columns([*_FILE, *metric_columns("bench")], measured)
        yield from wrapped_tables([file.file for file in result.files], columns, options.max_width)
        if result.emulated:
            counted = ", instructions of one run instead" if any(file.instructions for file in result.files) else ""
            yield Text(f"{result.target} is emulated: no time{counted}.")
        for failure in result.failures:
            yield Text(f"NOT MEASURED: {failure.file}: {failure.what}", "bold red")
        for note in result.notes:
            yield Text(f"Note: {note}", "yellow")
        for file in result.files:
            for note in file.notes:
                yield Text(f"{file.file}: {note}", "yellow")
        remarks = [remark for metric in METRICS.values() for remark in metric.remarks(measured)]
        yield from map(Text, said_once(remarks, len(measured)))


def bench_table(result: BenchResult) -> BenchTable:
    """Returns measured files with every figure that was taken of them, for a terminal of any width."""
    return BenchTable(result)
