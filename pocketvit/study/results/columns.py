"""The columns of a study's tables: means over seeds with their standard deviations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from device_bench import format
from device_bench.columns import Cell, Column, split_columns
from device_bench.metrics import METRICS
from device_bench.metrics.base import Number

from .collect import OnTarget, StudyRow
from .significance import AccuracyComparison, Test
from .spread import Spread


def over_seeds(figure: Spread, show: Callable[[float], str]) -> str:
    """Returns a mean with its standard deviation, if the values differ.

    >>> from .spread import spread
    >>> over_seeds(spread([0.98, 0.99], ""), lambda own: format.percent(own))
    '98.5 % ± 0.7 %'
    """
    if figure.mean is None:
        return format.MISSING
    return f"{show(figure.mean)} ± {show(figure.sd)}" if figure.sd else show(figure.mean)


def minutes(figure: Spread) -> str:
    """Returns a long time in seconds or minutes.

    >>> from .spread import spread
    >>> minutes(spread([30.0], "")), minutes(spread([300.0], ""))
    ('30.0 s', '5.0 min')
    """
    scale, unit = (60.0, "min") if (figure.mean or 0) >= 120 else (1.0, "s")
    return over_seeds(figure, lambda own: f"{own / scale:.1f} {unit}")


def percent_over_seeds(share: float) -> str:
    """Returns a share as a percentage; a standard deviation is never called ``< 0.1 %``."""
    return f"{100 * share:.1f} %"


def _average(heading: str, figure: Callable[[StudyRow], Spread], show: Callable[[float], str]) -> Column[StudyRow]:
    return Column(heading, figure, lambda own: split_columns(over_seeds(own, show), "±"))


ROW_COLUMNS: tuple[Column[StudyRow], ...] = (
    Column("seeds", lambda row: len(row.seeds)),
    _average("top-1", lambda row: row.top1, percent_over_seeds),
    _average("parameters", lambda row: row.params, lambda own: format.count(round(own))),
    _average("FLOPs", lambda row: row.flops, lambda own: format.flop(round(own))),
    _average("size", lambda row: row.size_bytes, lambda own: format.size(round(own))),
    _average("gzip", lambda row: row.gzip_bytes, lambda own: format.size(round(own))),
    Column("training", lambda row: row.training_s, lambda own: split_columns(minutes(own), "±")),
)
"""Columns of a row whatever was measured of it."""


def columns(targets: Sequence[str]) -> list[Column[StudyRow]]:
    """Returns every column of a study's table but the names of the rows.

    Args:
        targets: targets of the study.
    """
    found = list(ROW_COLUMNS)
    for target in targets:
        suffix = f" on {target}" if len(targets) > 1 else ""
        found += [_on_target(number, target, suffix) for metric in METRICS.values() for number in metric.averaged]
    return found


def _on_target(number: Number, target: str, suffix: str) -> Column[StudyRow]:
    def show(own: float) -> str:
        return number.show(own).removesuffix(f" {number.unit}")

    def text(own: OnTarget) -> Cell:
        words = over_seeds(own.figures[number.key], show)
        if number.key == "joules_per_image" and words != format.MISSING and own.energy_tier != "measured":
            words += f" {own.energy_tier or 'partly estimated'}"
        return split_columns(words, "±")

    return Column(f"{number.heading}{suffix}", lambda row: row.on(target), text)


def name_of(row: StudyRow, rows: Sequence[StudyRow]) -> str:
    """Returns a row's method and file, and whatever else differs between any two rows."""
    parts = [row.method]
    for field in ("model", "data", "budget"):
        if len({getattr(own, field) for own in rows if getattr(own, field)}) > 1 and getattr(row, field):
            parts.append(getattr(row, field))
    return " ".join([*parts, row.kind])


def p_value(p: float | None) -> str:
    """Returns the p-value of a test.

    >>> p_value(0.0312), p_value(2e-6)
    ('0.031', '< 0.001')
    """
    if p is None:
        return format.MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _outcome(own: Test) -> str:
    return p_value(own.holm) + (" *" if own.significant else "")


def _difference(own: AccuracyComparison) -> str:
    found = own.difference
    if found.mean is None:
        return format.MISSING
    mean = format.points(0.0, found.mean)
    return f"{mean.removesuffix(' points')} ± {100 * found.sd:.1f} points" if found.sd else mean


def _right_alone(own: AccuracyComparison) -> str:
    pairs = zip(own.only_first_right, own.only_second_right, strict=True)
    return " ".join(f"{first}:{second}" for first, second in pairs) or format.MISSING


COMPARISON_COLUMNS: tuple[Column[AccuracyComparison], ...] = (
    Column("Second", lambda own: own.second, words=True, views=frozenset({"report"})),
    Column("Second less first", _difference, short="difference"),
    Column("p, seeds", lambda own: _outcome(own.seeds)),
    Column("p, images", lambda own: _outcome(own.images)),
    Column("Right alone", _right_alone, views=frozenset({"report"})),
)
"""Columns of a table of comparisons; those of the view ``report`` stand there alone."""
