"""Pictures of a search: what it looked at, and what it gave up for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from device_bench.documents.search_log import Look, Removal, SearchRound, StepLog, TreeLog

from .panels import AFTER, INK, MUTED, PAPER, SECOND, THIRD, TITLE_PAD, Draw, legend_above

FAINT = 300
"""Most dots of nodes stopped early that are drawn of one round, evenly chosen."""

POINTS = 400
"""Most points of a line that are drawn, evenly chosen."""

_MS_PER_NS = 1e-6

_UNITS = {"macs": "MACs", "params": "parameters"}
_COLOURS, _MARKERS = (AFTER, SECOND, THIRD), ("o", "s", "^", "D")
_NAMED_ROUNDS = 4
_LEGEND_COLUMNS, _LEGEND_ROW_PT = 3, 13


def unit_name(unit: str) -> str:
    """Returns a budget's unit as people write it."""
    return _UNITS.get(unit, unit.partition("@")[0] or "cost")


def nodes(log: TreeLog, share: str = "Top-1") -> Draw:
    """Returns a panel of every node looked at: its accuracy over its cost, by round.

    Args:
        log: the rounds of the search.
        share: name of the accuracy: ``Top-1``, or ``Agreement`` with the whole model.
    """

    def draw(axes: Any) -> None:
        few = len(log.rounds) <= _NAMED_ROUNDS
        for index, own in enumerate(log.rounds):
            colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
            stopped, whole = (_dots(log, own, complete=complete) for complete in (False, True))
            axes.scatter(*stopped, s=22, marker="v", facecolors="none", edgecolors=colour, alpha=0.55, linewidths=0.8)
            label = f"round {own.number}" if few else None
            axes.scatter(*whole, s=20, marker=marker, color=colour, linewidths=0, label=label, zorder=3)
        _mark_frontier(axes, log)
        _mark_chosen(axes, log)
        stopped_label = "stopped early: at most"
        axes.scatter([], [], s=22, marker="v", facecolors="none", edgecolors=MUTED, linewidths=0.8, label=stopped_label)
        rows = -(-len(axes.get_legend_handles_labels()[1]) // _LEGEND_COLUMNS)
        axes.set_title(f"{share} on the Search Set, %", pad=TITLE_PAD + _LEGEND_ROW_PT * (rows - 1))
        axes.set_xlabel(f"{unit_name(log.unit)} left, % of the baseline's")
        axes.margins(0.05, 0.08)
        axes.invert_xaxis()
        legend_above(axes, _LEGEND_COLUMNS)

    return draw


def losses(log: StepLog, total: int | None) -> Draw:
    """Returns a panel of the importance lost up to each step over the cost after it.

    Args:
        log: the steps.
        total: cost of the unpruned model; without it costs are shown in their own unit.
    """

    def draw(axes: Any) -> None:
        is_time = log.unit.startswith("latency")
        scale = 100 / total if total else _MS_PER_NS if is_time else 1.0
        lost, points = 0.0, [(100.0, 0.0)] if total else []
        for step in log.steps:
            lost += step.importance
            points.append((scale * step.cost, lost))
        points = points[:1] + _even(points[1:-1], POINTS) + points[-1:]
        few = len(points) <= 60
        costs, heights = zip(*points, strict=True)
        axes.plot(costs, heights, color=AFTER, linewidth=1.8, marker="o" if few else None, markersize=3.2)
        axes.plot(costs[-1:], heights[-1:], color=AFTER, marker="o", markersize=5)
        axes.set_title("Importance lost, summed")
        unit = unit_name(log.unit)
        axes.set_xlabel(f"{unit} left" + (", % of the baseline's" if total else ", ms" if is_time else ""))
        axes.invert_xaxis()
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)
        axes.yaxis.get_offset_text().set_color(MUTED)

    return draw


def kinds(steps: Sequence[Removal]) -> dict[str, int]:
    """Returns how many steps removed each kind, most first."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.action] = counts.get(step.action, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def _dots(log: TreeLog, own: SearchRound, *, complete: bool) -> tuple[list[float], list[float]]:
    """Returns where the nodes of one kind lie, each place once."""
    places = dict.fromkeys(_place(log, own, look) for look in own.looks if look.complete == complete)
    shown = list(places) if complete else _even(list(places), FAINT)
    return [x for x, _ in shown], [y for _, y in shown]


def _place(log: TreeLog, own: SearchRound, look: Look) -> tuple[float, float]:
    return 100 * look.cost / log.total, 100 * look.correct / own.images


def _mark_frontier(axes: Any, log: TreeLog) -> None:
    places = [(100 * cost / log.total, 100 * top1) for cost, top1 in log.frontier]
    style = {"drawstyle": "steps-post", "color": MUTED, "linewidth": 1.3, "zorder": 3.5}
    axes.plot([x for x, _ in places], [y for _, y in places], label="best for its cost", **style)


def _mark_chosen(axes: Any, log: TreeLog) -> None:
    """Rings the node each round chose, and writes the round's number to it where there is more than one."""
    label: str | None = "chosen"
    for own in log.rounds:
        if own.chosen is None:
            continue
        x, y = _place(log, own, own.chosen)
        axes.scatter([x], [y], s=70, facecolors="none", edgecolors=INK, linewidths=1.3, zorder=4, label=label)
        label = None
        if len(log.rounds) > 1:
            place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "zorder": 5}
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.7}
            axes.annotate(str(own.number), (x, y), color=INK, fontsize=8, fontweight="bold", bbox=box, **place)


def _even(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    return points[:: max(1, -(-len(points) // most))]
