"""The tables of what was measured, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from device_bench import format

from .lines import CutLine, Line, Precision, Side, TimedSide, TimeLine, Treatment, WholeLine
from .ways import WAYS

SETS = {"data": "the dataset", "photos": "photographs"}
TREATMENTS: tuple[Treatment, ...] = ("cut", "reconstructed", "recovered")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


class Figure(NamedTuple):
    """A figure that has a table.

    Attributes:
        title: heading of the table.
        pictures: the set of pictures it is measured on.
        field: field of ``Fidelity``.
        scale: what it is multiplied with.
        decimals: number of decimals.
    """

    title: str
    pictures: str
    field: str
    scale: float
    decimals: int


FIGURES = (
    Figure("Top-1 on the dataset, %", "data", "top1", 100, 1),
    Figure("Agreement with the whole model on the dataset, %", "data", "agreement", 100, 1),
    Figure("Mean cosine of the head's input on the dataset", "data", "cosine", 1, 3),
    Figure("Agreement with the whole model on photographs, %", "photos", "agreement", 100, 1),
    Figure("Mean cosine of the head's input on photographs", "photos", "cosine", 1, 3),
)


def tables(lines: Sequence[Line]) -> str:
    """Returns all tables of the lines of one subject; a sentence where there are none."""
    whole = next((line for line in lines if isinstance(line, WholeLine)), None)
    if whole is None:
        return "Nothing has been measured yet."
    cuts = [line for line in lines if isinstance(line, CutLine)]
    times = [line for line in lines if isinstance(line, TimeLine)]
    images = " and ".join(f"{count:,} images of {SETS[name]}" for name, count in whole.images.items())
    text = [
        f"{whole.model}: {format.count(whole.macs)} MACs, {format.percent(whole.top1)} of the labelled test images "
        f"right; tested on {images}."
    ]
    for name in dict.fromkeys(line.spot.calibrated_on for line in cuts):
        own = [line for line in cuts if line.spot.calibrated_on == name]
        draws = len({line.spot.draw for line in own})
        text += ["", f"## Calibrated on {SETS[name]}", "", f"{format.plural(draws, 'draw')} of calibration images."]
        for figure in FIGURES:
            text += _quality(figure, own)
        text += [*_shares(own, whole.macs), *_costs(own)]
    for precision in PRECISIONS:
        text += _times(precision, [line for line in times if line.precision == precision])
    return "\n".join(text)


def at_limit(sides: Sequence[Side] | Sequence[TimedSide], limit: int, values: Sequence[float]) -> float:
    """Returns a figure at the budget: that of the one model, or on the line between two of different MACs.

    Args:
        sides: one model, or one above and one below the budget.
        limit: the budget, MACs.
        values: the figure of each.
    """
    if len(sides) == 1:
        return values[0]
    (first, second), (own, other) = sides, values
    return own + (other - own) * (limit - first.macs) / (second.macs - first.macs)


def mean_se(values: Sequence[float], decimals: int) -> str:
    """Formats the mean over draws, with its standard error where there are two or more.

    >>> mean_se([1.0, 2.0, 3.0], 2), mean_se([1.0], 1)
    ('2.00 ± 0.58', '1.0')
    """
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return f"{statistics.mean(values):.{decimals}f}" + ("" if error is None else f" ± {error:.{decimals}f}")


def _figure(figure: Figure, line: CutLine) -> float | None:
    """Returns a line's figure at its budget; None where it was not measured."""
    found = [getattr(side.fidelity.get(figure.pictures), figure.field, None) for side in line.sides]
    known = [float(value) for value in found if value is not None]
    return figure.scale * at_limit(line.sides, line.limit, known) if len(known) == len(found) else None


def _quality(figure: Figure, lines: Sequence[CutLine]) -> list[str]:
    def text(own: Sequence[CutLine]) -> str:
        values = [value for value in (_figure(figure, line) for line in own) if value is not None]
        return mean_se(values, figure.decimals) if values else ""

    if not any(_figure(figure, line) is not None for line in lines):
        return []
    return ["", f"{figure.title}:", "", *_grid(lines, text)]


def _shares(lines: Sequence[CutLine], whole: int) -> list[str]:
    def text(own: Sequence[CutLine]) -> str:
        found = sorted({side.macs / whole for line in own for side in line.sides})
        ends = dict.fromkeys(f"{100 * share:.1f}" for share in (found[0], found[-1]))
        return " to ".join(ends)

    plain = [line for line in lines if line.treatment == "cut"]
    return ["", "MACs left, %:", "", *_grid(plain, text)] if plain else []


def _costs(lines: Sequence[CutLine]) -> list[str]:
    rows = ["", "| way | analysis | choice | cut | with reconstruction | recovery | peak memory |", "|---" * 7 + "|"]
    for name, own in _by_way(lines):
        takes = {treatment: [line for line in own if line.treatment == treatment] for treatment in TREATMENTS}
        cells = [
            _mean_s([line.analysis_s for line in own]),
            _mean_s([line.choice_s for line in own]),
            _mean_s([line.cut_s for line in takes["cut"]]),
            _mean_s([line.cut_s for line in takes["reconstructed"]]),
            _mean_s([line.recovery_s for line in takes["recovered"]]),
            f"{max(line.peak_bytes for line in own) / 2**30:.2f} GiB",
        ]
        rows.append(f"| {WAYS[name].title} | {' | '.join(cells)} |")
    return rows


def _times(precision: Precision, lines: Sequence[TimeLine]) -> list[str]:
    if not lines:
        return []

    def text(own: Sequence[TimeLine]) -> str:
        line = own[-1]
        intervals = [side.ratio for side in line.sides]
        value, low, high = (
            at_limit(line.sides, line.limit, [getattr(one, end) for one in intervals])
            for end in ("value", "low", "high")
        )
        return f"{value:.2f} [{min(low, high):.2f}, {max(low, high):.2f}]"

    machines = ", ".join(dict.fromkeys(line.processor for line in lines if line.processor)) or "a processor"
    whole = statistics.median(line.whole_s for line in lines)
    title = f"LiteRT's time, {precision}, one thread, whole = 1 ({format.seconds(whole)}), on {machines}:"
    return ["", title, "", *_time_grid(lines, text)]


def _grid(lines: Sequence[CutLine], text: Callable[[Sequence[CutLine]], str]) -> list[str]:
    shares = _columns(line.spot.share for line in lines)
    rows = _head("way", shares)
    for name, of_way in _by_way(lines):
        treated = sorted({(TREATMENTS.index(line.treatment), line.minutes) for line in of_way})
        for number, minutes in treated:
            own = [line for line in of_way if (line.treatment, line.minutes) == (TREATMENTS[number], minutes)]
            by_share = ([line for line in own if line.spot.share == share] for share in shares)
            label = WAYS[name].title + _addition(TREATMENTS[number], minutes)
            rows.append(f"| {label} | {' | '.join(text(cell) if cell else '' for cell in by_share)} |")
    return rows


def _addition(treatment: Treatment, minutes: float) -> str:
    if treatment == "cut":
        return ""
    return f", {treatment}" + (f" for {minutes:g} min" if treatment == "recovered" else "")


def _time_grid(lines: Sequence[TimeLine], text: Callable[[Sequence[TimeLine]], str]) -> list[str]:
    shares = _columns(line.spot.share for line in lines)
    rows = _head("way", shares)
    for name in (name for name in WAYS if any(line.spot.way == name for line in lines)):
        own = [[line for line in lines if (line.spot.way, line.spot.share) == (name, share)] for share in shares]
        rows.append(f"| {WAYS[name].title} | {' | '.join(text(cell) if cell else '' for cell in own)} |")
    return rows


def _head(first: str, shares: Sequence[float]) -> list[str]:
    return [f"| {first} | {' | '.join(f'{share:g}' for share in shares)} |", "|---" * (len(shares) + 1) + "|"]


def _columns(shares: Iterable[float]) -> list[float]:
    return sorted(set(shares), reverse=True)


def _by_way(lines: Sequence[CutLine]) -> list[tuple[str, list[CutLine]]]:
    found = ((name, [line for line in lines if line.spot.way == name]) for name in WAYS)
    return [(name, own) for name, own in found if own]


def _mean_s(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.0f} s" if values else ""
