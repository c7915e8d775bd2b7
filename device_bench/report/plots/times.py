"""Draws the time of a file by part or by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from device_bench import format

from .panels import AFTER, BEFORE, INK, Draw

MOST = 7
"""Most bars of a file; the others are summed in one more bar."""

WIDTH_IN = 3.6
"""Of one panel, inches."""


def bars(name: str, times: Sequence[tuple[str, float]], longest_s: float, is_baseline: bool) -> Draw:
    """Returns a panel of horizontal bars, one for each kind of part or operator, with its time and share.

    Args:
        name: name of the file.
        times: kind and seconds, in the order drawn.
        longest_s: end of the axis, s, the same for all panels.
        is_baseline: whether it is a baseline file.
    """

    def draw(axes: Any) -> None:
        total = sum(seconds for _, seconds in times) or 1.0
        colour = BEFORE if is_baseline else AFTER
        for place, (_, seconds) in enumerate(times):
            axes.barh(place, seconds * 1e3, 0.62, color=colour)
            text = f"{format.seconds(seconds) if seconds else '0'}, {100 * seconds / total:.0f} %"
            place_of_text = {"xytext": (4, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
            axes.annotate(text, (seconds * 1e3, place), color=INK, fontsize=7.5, **place_of_text)
        axes.set_xlim(0, 1.55 * longest_s * 1e3)
        axes.set_ylim(len(times) - 0.4, -0.6)
        axes.set_yticks(range(len(times)), [kind for kind, _ in times], color=INK, fontsize=8)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(name, fontsize=9)

    return draw


def longest_first(times: dict[str, float]) -> list[tuple[str, float]]:
    """Returns the ``MOST`` longest kinds, and the others as one."""
    kept = list(times.items())[:MOST]
    rest = list(times.values())[MOST:]
    return [*kept, (f"{len(rest)} others", sum(rest))] if rest else kept
