"""The figures of a study as people read them: the mean, and what it varies by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from device_bench import format

from .collect import OnTarget, Row
from .significance import Comparison, Test
from .spread import Spread


def over_seeds(figure: Spread, show: Callable[[float], str]) -> str:
    """Returns a mean with its standard deviation, where it varies.

    >>> from .spread import spread
    >>> over_seeds(spread([0.98, 0.99], ""), lambda own: format.percent(own))
    '98.5 % ± 0.7 %'
    """
    if figure.mean is None:
        return format.MISSING
    if not figure.sd:
        return show(figure.mean)
    return f"{show(figure.mean)} ± {show(figure.sd)}"


def top1(row: Row) -> str:
    """Returns the accuracy of a row."""
    return over_seeds(row.top1, _percent)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def count(figure: Spread) -> str:
    """Returns a number of parameters."""
    return over_seeds(figure, lambda own: format.count(round(own)))


def flop(figure: Spread) -> str:
    """Returns a number of operations."""
    return over_seeds(figure, lambda own: format.flop(round(own)))


def size(figure: Spread) -> str:
    """Returns bytes."""
    return over_seeds(figure, lambda own: format.size(round(own)))


def minutes(figure: Spread) -> str:
    """Returns a long time.

    >>> from .spread import spread
    >>> minutes(spread([30.0], "")), minutes(spread([300.0], ""))
    ('30.0 s', '5.0 min')
    """
    scale, unit = (60.0, "min") if (figure.mean or 0) >= 120 else (1.0, "s")
    return over_seeds(figure, lambda own: f"{own / scale:.1f} {unit}")


def latency(own: OnTarget | None) -> str:
    """Returns a latency."""
    return format.MISSING if own is None else over_seeds(own.latency_s, format.seconds)


def throughput(own: OnTarget | None) -> str:
    """Returns images a second."""
    return format.MISSING if own is None else over_seeds(own.images_per_s, format.rate)


def energy(own: OnTarget | None) -> str:
    """Returns the energy of an image; an estimated one is called so."""
    if own is None or own.joules_per_image.mean is None:
        return format.MISSING
    told = over_seeds(own.joules_per_image, format.joules)
    return told if own.energy_tier == "measured" else f"{told} {own.energy_tier or 'partly estimated'}"


def carbon(own: OnTarget | None) -> str:
    """Returns the CO2 of an image."""
    return format.MISSING if own is None else over_seeds(own.grams_co2_per_image, format.grams)


def instructions(own: OnTarget | None) -> str:
    """Returns the instructions of one image."""
    return format.MISSING if own is None else count(own.instructions)


def on(row: Row, target: str) -> OnTarget | None:
    """Returns what was measured of a row on a target, or none."""
    return next((own for own in row.targets if own.target == target), None)


def columns(rows: Sequence[Row], targets: Sequence[str]) -> dict[str, list[str]]:
    """Returns the whole table by heading, but for the names of the rows and the commands."""
    found = {
        "seeds": [str(len(row.seeds)) for row in rows],
        "top-1": [top1(row) for row in rows],
        "parameters": [count(row.params) for row in rows],
        "FLOPs": [flop(row.flops) for row in rows],
        "size": [size(row.size_bytes) for row in rows],
        "gzip": [size(row.gzip_bytes) for row in rows],
        "training": [minutes(row.training_s) for row in rows],
    }
    for target in targets:
        own = [on(row, target) for row in rows]
        suffix = f" on {target}" if len(targets) > 1 else ""
        found |= {
            f"latency{suffix}": [latency(one) for one in own],
            f"images/s{suffix}": [throughput(one).replace(" images/s", "") for one in own],
            f"energy{suffix}": [energy(one) for one in own],
            f"CO₂{suffix}": [carbon(one) for one in own],
            f"instructions{suffix}": [instructions(one) for one in own],
        }
    return {heading: cells for heading, cells in found.items() if any(cell != format.MISSING for cell in cells)}


def name_of(row: Row, rows: Sequence[Row]) -> str:
    """Returns what tells a row from the others: its method, file, and what else differs between any two."""
    parts = [row.method]
    for field in ("model", "data", "budget"):
        if len({getattr(own, field) for own in rows if getattr(own, field)}) > 1 and getattr(row, field):
            parts.append(getattr(row, field))
    return " ".join([*parts, row.kind])


def p_value(p: float | None) -> str:
    """Returns a chance.

    >>> p_value(0.0312), p_value(2e-6)
    ('0.031', '< 0.001')
    """
    if p is None:
        return format.MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def outcome_of(own: Test) -> str:
    """Returns the outcome of a test, held to its family."""
    return p_value(own.holm) + (" *" if own.significant else "")


def difference(own: Comparison) -> str:
    """Returns a difference in accuracy, in points."""
    found = own.difference
    if found.mean is None:
        return format.MISSING
    mean = format.points(0.0, found.mean)
    return mean if not found.sd else f"{mean.removesuffix(' points')} ± {100 * found.sd:.1f} points"
