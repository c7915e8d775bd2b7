"""Draws accuracy over cost: every file as a dot, the Pareto frontier as a line with names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from device_bench.report.tradeoffs import Point, Tradeoff

from .panels import AFTER, INK, MUTED, PAPER, Draw

SIZE_IN = (3.6, 3.0)
"""Width and height of one panel, inches."""

_LOG_OVER = 6.0
_LEAST_SPAN = 2.0
"""Percentage points that the vertical axis spans at least, so that chance does not look like a cliff."""

_PANEL_PT = (205.0, 150.0)
"""About the inner width and height of a panel, points; where names are placed is reckoned in these."""

_FONT_PT = 7.5
_MARGIN = 0.1

Box = tuple[float, float, float, float]


def tradeoff(found: Tradeoff, names: Mapping[str, str]) -> Draw:
    """Returns a panel of top-1 over one cost.

    Files on the frontier are coloured and named, others muted, and named where there is room.

    Args:
        found: trade-off to draw.
        names: short names, by file.
    """

    def draw(axes: Any) -> None:
        front = found.frontier
        best = {point.file for point in front}
        low, high = _limits(axes, found.points)
        axes.step(
            [*(point.cost for point in front), high[0]],
            [*(100 * point.top1 for point in front), 100 * front[-1].top1],
            where="post",
            color=MUTED,
            linewidth=1.2,
        )
        for point in found.points:
            colour = AFTER if point.file in best else MUTED
            face = colour if point.on_target else PAPER
            style = {"s": 34 if point.file in best else 20, "zorder": 3, "linewidths": 1.2}
            axes.scatter([point.cost], [100 * point.top1], facecolors=face, edgecolors=colour, **style)
        _name(axes, found.points, front, names, (low, high))
        axes.set_title(f"Top-1, %, by {found.what}")
        axes.set_xlabel(found.axis)
        axes.grid(visible=True, axis="both")

    return draw


def _limits(axes: Any, points: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Sets the axes' scales and limits, and returns the lower left and the upper right corner."""
    costs, heights = [point.cost for point in points], [100 * point.top1 for point in points]
    middle, span = (min(heights) + max(heights)) / 2, max(max(heights) - min(heights), _LEAST_SPAN)
    bottom, top = middle - 0.68 * span, middle + 0.68 * span
    first, last = min(costs), max(costs)
    if first > 0 and last > _LOG_OVER * first:
        _logarithmic(axes)
        reach = (last / first) ** _MARGIN
        left, right = first / reach, last * reach
    else:
        reach = _MARGIN * ((last - first) or last or 1.0)
        left, right = first - reach, last + reach
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    return (left, bottom), (right, top)


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _name(
    axes: Any,
    points: Sequence[Point],
    front: Sequence[Point],
    names: Mapping[str, str],
    corners: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    """Writes names where they cover neither a dot nor each other; a muted one that finds no place is left out."""
    best = {point.file for point in front}
    places = {point.file: _place(point, axes.get_xscale() == "log", corners) for point in points}
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    taken += _line([places[point.file] for point in front])
    for point in sorted(points, key=lambda own: (own.file not in best, own.cost, own.file)):
        text, (x, y) = names[point.file], places[point.file]
        boxes = [(dx, dy, _box(x + dx, y + dy, align, text)) for dx, dy, align in _OFFSETS]
        costs = [(_covered(box, taken), index) for index, (_, _, box) in enumerate(boxes)]
        covered, index = min(costs)
        if covered and point.file not in best:
            continue
        dx, dy, box = boxes[index]
        taken.append(box)
        style = {"color": INK if point.file in best else MUTED, "fontsize": _FONT_PT, "zorder": 4}
        align = {"ha": _OFFSETS[index][2], "va": "center", "textcoords": "offset points"}
        axes.annotate(text, (point.cost, 100 * point.top1), xytext=(dx, dy), **align, **style)


_OFFSETS = tuple(
    (dx, dy, align)
    for far in (1.0, 1.8, 2.6)
    for dx, dy, align in (
        (7.0, 0.0 if far == 1 else 7.0 * far, "left"),
        (-7.0, 0.0 if far == 1 else 7.0 * far, "right"),
        (0.0, 9.0 * far, "center"),
        (0.0, -9.0 * far, "center"),
        (5.0, -8.0 * far, "left"),
        (-5.0, -8.0 * far, "right"),
    )
)


def _line(places: Sequence[tuple[float, float]]) -> list[Box]:
    """Returns the boxes that the frontier's line covers."""
    ends = [x for x, _ in places[1:]] + [_PANEL_PT[0]]
    flat = [(x, y - 1, end, y + 1) for (x, y), end in zip(places, ends, strict=True)]
    return [*flat, *((x - 1, low, x + 1, high) for (_, low), (x, high) in pairwise(places))]


def _place(point: Point, log: bool, corners: tuple[tuple[float, float], tuple[float, float]]) -> tuple[float, float]:
    (left, bottom), (right, top) = corners
    share = math.log(point.cost / left) / math.log(right / left) if log else (point.cost - left) / (right - left)
    return share * _PANEL_PT[0], (100 * point.top1 - bottom) / (top - bottom) * _PANEL_PT[1]


def _box(x: float, y: float, align: str, text: str) -> Box:
    width = 0.56 * _FONT_PT * len(text)
    left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[align] * width
    return left, y - 0.6 * _FONT_PT, left + width, y + 0.6 * _FONT_PT


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Returns the area of ``box`` on taken boxes or outside the panel, points squared."""
    left, bottom, right, top = box
    outside = (right - left) * (top - bottom) - _overlap(box, (0.0, 0.0, *_PANEL_PT))
    return round(sum(_overlap(box, other) for other in taken) + max(0.0, outside), 6)


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
