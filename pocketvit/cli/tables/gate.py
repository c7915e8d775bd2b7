"""Gates and comparisons as tables on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from device_bench import format
from device_bench.documents.facts import Facts
from device_bench.gate.compare import ResultComparison
from device_bench.gate.duel import Duel
from device_bench.gate.judge import Gate, Limits, judge
from device_bench.gate.render import CHECK_COLUMNS, verdict_of
from device_bench.gate.sign_test import shown_below
from device_bench.timing.stats import median_interval

_STYLES = {"ok": "green", "FAILED": "bold red", "not compared": "yellow", "not gated": "dim"}


def gate_tables(gates: Sequence[Gate]) -> list[Table | Text]:
    """Returns a table for each file and, below it, the notes on single limits."""
    shown: list[Table | Text] = []
    for gate in gates:
        table = _table(f"{gate.new} against {'the stored ' if gate.against == 'baseline' else ''}{gate.base}")
        table.add_column("limit", justify="right", no_wrap=True)
        table.add_column("")
        for check in gate.checks:
            verdict = verdict_of(check)
            cells = [column.terminal(check) for column in CHECK_COLUMNS[:4]]
            table.add_row(check.metric, *cells, Text(verdict, style=_STYLES[verdict]))
        shown.append(table)
        shown += [Text(f"{check.metric}: {check.note}") for check in gate.checks if check.note]
    return shown


def comparison_tables(base: Facts, new: Facts, duel: Duel) -> list[Table | Text]:
    """Returns the facts of two files side by side, and their times."""
    table = _table(f"{new.file} against {base.file}")
    for check in judge(base, new, Limits(), duel).checks:
        if check.base is not None or check.new is not None:
            table.add_row(check.metric, *(column.terminal(check) for column in CHECK_COLUMNS[:3]))
    ratio = duel.ratio
    # the timing stops once the sign is shown, which may be a round before the interval is finite
    shown = f"{format.times_interval(ratio)}, 99 % interval" if math.isfinite(ratio.high) else format.times(ratio.value)
    outcome = "slower" if duel.slower else "faster" if shown_below(duel.differences, 0.0, duel.rules.alpha) else None
    sure = f"the new file is {outcome}" if outcome else "no difference was shown"
    text = (
        f"latency: new over base {shown}, {sure}; {len(duel.differences)} rounds "
        f"in turns, {len(duel.launches)} processes, {duel.spent_s:.0f} s"
    )
    return [table, Text(text)]


def result_tables(found: Sequence[ResultComparison]) -> list[Table | Text]:
    """Returns two results of a bench side by side."""
    table = _table("Two results, not measured in turns")
    table.columns[0].header = "file"
    table.columns[-1].header = "new over base [95 % CI]"
    for one in found:
        before, after = one.base.latency, one.new.latency
        name = one.file if one.same_bytes else f"{one.file} (changed)"
        values = (format.seconds_interval(median_interval(m.values)) if m else format.MISSING for m in (before, after))
        table.add_row(name, *values, format.times_interval(one.latency))
    notes = sorted({f"{one.file}: {one.reason}" for one in found if one.reason})
    return [table, *map(Text, notes)]


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("metric", no_wrap=True)
    for column in CHECK_COLUMNS[:3]:
        table.add_column(column.heading, justify="right", no_wrap=True)
    return table
