"""Every file on every target at a glance, for reports of more than one target."""

from __future__ import annotations

from dataclasses import dataclass

from device_bench import format

from .grids import Cell
from .summary import RunSummary, SummaryRow, Timing
from .tradeoffs import Point, Tradeoff

EMULATED = "emulated: no time"
_NONE = Cell(format.MISSING)
_GIGA = 1e9


@dataclass(frozen=True)
class Overview:
    """A table with a line for each file and a column for each target.

    Attributes:
        heads: of the columns: the target, and what must be known of it.
        labels: of the same, in one line.
        rows: a file's name and its cells.
        timed: whether any target has times.
        counted: whether any has instructions in their place.
    """

    heads: tuple[Cell, ...]
    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    timed: bool
    counted: bool


def overview(summary: RunSummary) -> Overview | None:
    """Returns what each file takes on each target, and how right it is there; None where there is one target alone."""
    if len(summary.targets) < 2:
        return None
    rows = [row for row in summary.rows if row.timings]
    timings = [timing for row in rows for timing in row.timings]
    emulated = {timing.target for timing in timings if timing.emulated}
    return Overview(
        heads=tuple(Cell(target, EMULATED if target in emulated else "") for target in summary.targets),
        labels=tuple(f"{target} (emulated)" if target in emulated else target for target in summary.targets),
        rows=tuple((row.name, tuple(_cell(row, target) for target in summary.targets)) for row in rows),
        timed=any(timing.median_s for timing in timings),
        counted=any(timing.emulated for timing in timings),
    )


def counted(summary: RunSummary, target: str) -> tuple[Tradeoff, ...]:
    """Returns accuracy beside executed instructions, where they were counted on ``target``."""
    points = []
    for row in summary.rows:
        timing = row.on(target)
        top1 = None if timing is None else row.top1 if timing.top1 is None else timing.top1
        if timing is None or timing.instructions is None or top1 is None:
            continue
        points.append(Point(row.name, timing.instructions.of("all") / _GIGA, top1, timing.top1 is not None))
    one = Tradeoff(
        "instructions",
        "instructions of one run, 10⁹",
        lambda cost: f"{format.count(round(cost * _GIGA))} instr.",
        tuple(points),
    )
    return (one,) if points else ()


def cost_text(timing: Timing) -> str:
    """Returns what a file takes: its median latency or, on a target without time, its instructions."""
    if timing.emulated:
        return f"{format.count(timing.instructions.of('all'))} instr." if timing.instructions else format.MISSING
    return format.seconds(timing.median_s.value if timing.median_s else None)


def _cell(row: SummaryRow, target: str) -> Cell:
    timing = row.on(target)
    if timing is None:
        return _NONE
    return Cell(cost_text(timing), f"top-1 {format.percent(timing.top1)}" if timing.top1 is not None else "")
