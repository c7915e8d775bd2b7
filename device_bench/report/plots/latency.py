"""Draws latencies: all files on one scale, and a histogram of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .panels import AFTER, BEFORE, INK, MUTED, PAPER, Draw

DOTS = 120
"""Dots drawn of each latency series, evenly spread over its rounds."""

_BINS = (8, 48)
_TAIL = 4.0
"""How many times the way from p50 to p90 a shape reaches beyond p90 at most."""

_LEAST_SPAN_MS = 1e-6


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
        axes.set_xlim(0, max(furthest * 1.04, _LEAST_SPAN_MS))
        axes.set_ylim(len(series) - 0.5, -0.5)
        _lying(axes)
        axes.set_xlabel("latency of one run, ms")

    return draw


def shape(name: str, values: Sequence[float], is_baseline: bool) -> Draw:
    """Returns a panel of one file's latencies as a histogram on its own scale, so that modes show.

    The slowest few are not drawn where they would squash the rest; the percentiles count them.

    Args:
        name: name of the file.
        values: latencies, s.
        is_baseline: whether it is a baseline file.
    """
    import numpy as np

    def draw(axes: Any) -> None:
        milliseconds = np.asarray(values) * 1e3
        marks = [float(mark) for mark in np.percentile(milliseconds, (50, 90, 99))]
        low = float(milliseconds.min())
        high = min(float(milliseconds.max()), marks[1] + _TAIL * (marks[1] - marks[0]))
        high = max(high, low * 1.001, low + _LEAST_SPAN_MS)
        shown = milliseconds[milliseconds <= high]
        bins = int(np.clip(2 * math.sqrt(len(milliseconds)), *_BINS))
        counts, edges = np.histogram(shown, bins=bins, range=(low, high))
        axes.stairs(counts, edges, fill=True, color=BEFORE if is_baseline else AFTER, alpha=0.75, linewidth=0)
        for mark, style in zip(marks, ("-", "--", ":"), strict=True):
            if mark <= high:
                axes.axvline(mark, color=INK, linewidth=1.3, linestyle=style)
        axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
        axes.set_ylim(0, 1.05 * max(1, int(counts.max())))
        _lying(axes)
        axes.set_title(name, pad=15, fontsize=9)
        text = " · ".join(f"p{q} {_short(mark)}" for q, mark in zip((50, 90, 99), marks, strict=True))
        axes.text(0, 1.04, f"{text} ms", transform=axes.transAxes, color=MUTED, fontsize=8, va="bottom")
        axes.xaxis.get_major_locator().set_params(nbins=5)

    return draw


def _short(value: float) -> str:
    """Returns a time in ms with three significant digits, never in powers of ten."""
    decimals = next((digits for limit, digits in ((0.0995, 4), (0.995, 3), (9.95, 2), (99.5, 1)) if value < limit), 0)
    return f"{value:.{decimals}f}"


def _lying(axes: Any) -> None:
    axes.set_yticks([])
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _box(axes: Any, place: float, marks: Sequence[float]) -> None:
    low, first, middle, third, high = marks
    axes.plot((low, high), (place, place), color=INK, linewidth=0.9)
    axes.barh(place, third - first, 0.22, first, facecolor=PAPER, edgecolor=INK, linewidth=0.9, zorder=3)
    axes.plot((middle, middle), (place - 0.15, place + 0.15), color=INK, linewidth=2, zorder=4)
