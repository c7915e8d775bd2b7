"""The report's pictures: small SVG panels that read on a phone, on paper, in the light and in the dark."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from runtime import EpochRecord, MissingExtraError, ShapePlan

INK, MUTED, GRID, BEFORE, AFTER, PAPER = "#1c2430", "#66707f", "#dde2e8", "#9aa5b5", "#0b6bcb", "#ffffff"
SECOND, THIRD = "#b4530a", "#0c7a6b"
COLOURS = {
    **{INK: "--ink", MUTED: "--muted", GRID: "--line", BEFORE: "--before", AFTER: "--after", PAPER: "--card"},
    **{SECOND: "--second", THIRD: "--third"},
}
"""Each colour and the CSS variable that stands for it when a picture is set into a page."""

DOTS = 120
"""Dots drawn of each latency series, evenly spread over its rounds."""

TITLE_PAD = 19
"""Points between title and panel; leaves a line for the legend."""

Draw = Callable[[Any], None]

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def render(draws: Sequence[Draw], *, columns: int = 1, size: tuple[float, float] = (3.6, 2.5), salt: str) -> str:
    """Returns panels as one SVG document, byte for byte the same each time.

    Args:
        draws: each draws into the matplotlib axes it is given.
        columns: panels beside each other.
        size: of one panel, inches.
        salt: told apart from other pictures on the same page, whose ids must differ.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "bench") from None
    rows = math.ceil(len(draws) / columns)
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained", facecolor=PAPER)
        canvas = FigureCanvasSVG(figure)
        for index, draw in enumerate(draws):
            axes = figure.add_subplot(rows, columns, index + 1, facecolor=PAPER)
            axes.tick_params(length=0)
            draw(axes)
        buffer = io.StringIO()
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(svg: str, label: str) -> str:
    """Returns an SVG document as an element for a page: sized by the page, coloured by its variables.

    Args:
        svg: what ``render`` returned.
        label: what it shows, read aloud; free of markup.
    """
    body = svg[svg.index("<svg") :]
    head, rest = body[: body.index(">")], body[body.index(">") :]
    view_box = head[head.index("viewBox=") :].split('"')[1]
    for colour, variable in COLOURS.items():
        rest = rest.replace(colour, f"var({variable})")
    width = view_box.split()[2]
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="{view_box}" style="max-width: {float(width) * 1.6:.0f}px" role="img" aria-label="{label}"{rest}'
    )


def widths(name: str, title: str, baseline: ShapePlan | None, sliced: ShapePlan | None) -> Draw:
    """Returns a panel of one width of every block, before and after.

    Args:
        name: the field of ``BlockPlan``.
        title: of the panel.
        baseline: the unpruned plan.
        sliced: the smaller plan.
    """

    def draw(axes: Any) -> None:
        for plan, colour, label, share in ((baseline, BEFORE, "baseline", 0.8), (sliced, AFTER, "sliced", 0.46)):
            if plan is None:
                continue
            values = [getattr(block, name) for block in plan.blocks]
            axes.bar(range(1, len(values) + 1), values, share, color=colour, label=label)
        axes.set_title(title, pad=TITLE_PAD)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("block")
        legend_above(axes)

    return draw


def curves(title: str, unit: str, series: Sequence[tuple[str, Sequence[EpochRecord], str, bool]]) -> Draw:
    """Returns a panel of training curves.

    Args:
        title: of the panel.
        unit: of the vertical axis; ``%`` scales shares of 0..1.
        series: label, epochs, field of ``EpochRecord``, and whether it is the sliced model's.
    """

    def draw(axes: Any) -> None:
        scale = 100.0 if unit == "%" else 1.0
        for label, epochs, field, is_sliced in series:
            axes.plot(
                [record.epoch for record in epochs],
                [scale * getattr(record, field) for record in epochs],
                color=AFTER if is_sliced else BEFORE,
                marker="o",
                markersize=3.2,
                linewidth=1.8,
                label=label,
            )
        axes.set_title(f"{title}, {unit}", pad=TITLE_PAD)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        legend_above(axes)

    return draw


def latencies(series: Sequence[tuple[str, Sequence[float], bool]]) -> Draw:
    """Returns a panel with a box and dots for each file.

    The box spans the quartiles, its bar is the median, the whiskers end at the 5th and 95th
    percentiles. Dots beyond the 99th percentile of their own series are not drawn: one hiccup would
    squash everything else.

    Args:
        series: name, latencies in s, and whether it is a baseline file.
    """
    import numpy as np

    def draw(axes: Any) -> None:
        furthest = 0.0
        for place, (name, values, is_baseline) in enumerate(series):
            milliseconds = np.asarray(values) * 1e3
            limit = float(np.percentile(milliseconds, 99))
            shown = milliseconds[:: max(1, math.ceil(len(milliseconds) / DOTS))]
            shown = shown[shown <= limit]
            # a golden-ratio sequence spreads the dots evenly without randomness
            jitter = (np.arange(len(shown)) * 0.618034) % 1.0 - 0.5
            colour = BEFORE if is_baseline else AFTER
            axes.scatter(shown, place + 0.14 + 0.26 * jitter, s=5, color=colour, alpha=0.45, linewidths=0)
            _box(axes, place + 0.14, np.percentile(milliseconds, (5, 25, 50, 75, 95)).tolist())
            axes.text(0, place - 0.24, f" {name}", va="center", ha="left", color=INK, fontsize=8.5)
            furthest = max(furthest, limit)
        axes.set_xlim(0, furthest * 1.04)
        axes.set_ylim(len(series) - 0.5, -0.5)
        axes.set_yticks([])
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("latency of one run, ms")

    return draw


def _box(axes: Any, place: float, marks: Sequence[float]) -> None:
    low, first, middle, third, high = marks
    axes.plot((low, high), (place, place), color=INK, linewidth=0.9)
    axes.barh(place, third - first, 0.22, first, facecolor=PAPER, edgecolor=INK, linewidth=0.9, zorder=3)
    axes.plot((middle, middle), (place - 0.15, place + 0.15), color=INK, linewidth=2, zorder=4)


def legend_above(axes: Any, columns: int = 4) -> None:
    """Sets the legend between the title and the panel."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.97), ncols=columns, handlelength=1.4, columnspacing=1.2)
