"""Every file on every target at a glance, for reports of more than one target."""

from __future__ import annotations

from device_bench import format
from device_bench.columns import NONE, Cell

from .document import Heading, Paragraph, Row, Section, Table
from .summary import RunSummary, SummaryRow, Timing


def overview(summary: RunSummary) -> Section | None:
    """Returns the cost and the accuracy of each file on each target; None for fewer than two targets."""
    if len(summary.targets) < 2:
        return None
    rows = [row for row in summary.rows if row.timings]
    timings = [timing for row in rows for timing in row.timings]
    emulated = {timing.target for timing in timings if timing.emulated}
    headings = tuple(
        Heading(target, "emulated: no time", f"{target} (emulated)") if target in emulated else Heading(target)
        for target in summary.targets
    )
    lines = tuple(Row(row.name, tuple(_cell(row, target) for target in summary.targets)) for row in rows)
    words = (
        "Times are median latencies." if any(timing.median_s for timing in timings) else "",
        "An emulated target has no time: instr. are the instructions executed for one run." if emulated else "",
        "Top-1 is that of the file on the target, where it was measured there.",
    )
    table = Table("File", headings, lines, style="every", wide=True)
    return Section("Every target", (Paragraph(" ".join(filter(None, words))), table))


def cost_text(timing: Timing) -> str:
    """Returns the median latency of a file or, on a target without time, its instructions."""
    if timing.emulated:
        return f"{format.count(timing.instructions.of('all'))} instr." if timing.instructions else format.MISSING
    return format.seconds(timing.median_s.value if timing.median_s else None)


def _cell(row: SummaryRow, target: str) -> Cell:
    timing = row.on(target)
    if timing is None:
        return NONE
    return Cell(cost_text(timing), f"top-1 {format.percent(timing.top1)}" if timing.top1 is not None else "")
