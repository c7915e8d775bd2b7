"""The pictures of a study's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from device_bench.report.pictures import drawing, tradeoff_drawing
from device_bench.report.plots import panels as plots
from device_bench.report.render.document import Drawing
from device_bench.report.tradeoffs import Point, Tradeoff

from .collect import StudyResult, StudyRow
from .columns import name_of, over_seeds, percent_over_seeds

_ROW_IN, _LEAST_IN = 0.3, 1.0

Units = tuple[tuple[float, str], ...]
_COUNTS: Units = ((1e9, "10⁹"), (1e6, "10⁶"), (1e3, "10³"))
_BYTES: Units = ((1e6, "MB"), (1e3, "kB"))
_TIMES: Units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def accuracy_drawing(rows: Sequence[StudyRow], kind: str, place: int) -> Drawing | None:
    """Draws the accuracy of each row's float file: every seed, their mean, and the standard deviation about it."""
    shown = [row for row in rows if row.kind == kind and row.top1.mean is not None]
    if not shown:
        return None
    names = [name_of(row, rows).removesuffix(f" {kind}") for row in shown]
    size = (4.2, _LEAST_IN + _ROW_IN * len(shown))
    label = "Top-1 of each method: " + "; ".join(
        f"{n} {over_seeds(row.top1, percent_over_seeds)}" for n, row in zip(names, shown, strict=True)
    )
    return drawing(f"accuracy-{place}", label, [_accuracies(shown, names, kind)], size=size)


def _accuracies(shown: Sequence[StudyRow], names: Sequence[str], kind: str) -> plots.Draw:
    def draw(axes: Any) -> None:
        for place, row in enumerate(shown):
            mean, sd = 100 * (row.top1.mean or 0.0), 100 * (row.top1.sd or 0.0)
            values = [100 * value for value in row.top1.values]
            axes.plot([mean - sd, mean + sd], [place, place], color=plots.BEFORE, linewidth=5, solid_capstyle="butt")
            axes.scatter(values, [place] * len(values), s=22, facecolors=plots.PAPER, edgecolors=plots.AFTER, zorder=3)
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color=plots.INK, linewidth=2, zorder=4)
        axes.set_yticks(range(len(shown)), labels=names)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_title(f"Top-1 of the {kind} file, %")

    return draw


def cost_drawing(rows: Sequence[StudyRow], result: StudyResult, kind: str, place: int) -> Drawing | None:
    """Draws accuracy over FLOPs, size and measured latency, by the means over seeds."""
    shown = [row for row in rows if row.kind == kind and row.top1.mean is not None]
    found = [
        _tradeoff("FLOPs", "FLOPs", _COUNTS, shown, [row.flops.mean for row in shown], rows),
        _tradeoff("size", "size on disk", _BYTES, shown, [row.size_bytes.mean for row in shown], rows),
    ]
    for target in result.targets:
        costs = [own.figures["latency_s"].mean if (own := row.on(target)) else None for row in shown]
        found.append(_tradeoff(f"latency on {target}", "latency", _TIMES, shown, costs, rows))
    names = {name_of(row, rows): name_of(row, rows).removesuffix(f" {kind}") for row in shown}
    return tradeoff_drawing(f"costs-{place}", "all files", [one for one in found if one.points], names)


def _tradeoff(
    what: str,
    axis: str,
    units: Units,
    shown: Sequence[StudyRow],
    costs: Sequence[float | None],
    rows: Sequence[StudyRow],
) -> Tradeoff:
    known = [cost for cost in costs if cost is not None]
    # an axis of numbers with many digits cannot be read
    scale, unit = next((pair for pair in units if known and min(known) >= pair[0]), units[-1])
    points = tuple(
        Point(name_of(row, rows), cost / scale, row.top1.mean, True)
        for row, cost in zip(shown, costs, strict=True)
        if cost is not None and row.top1.mean is not None
    )
    return Tradeoff(what, f"{axis}, {unit}", lambda cost: f"{cost:.3g} {unit}", points)
