"""The report's tables of figures by file: start, latency, throughput, arithmetic, energy, accuracy on the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from device_bench import format
from device_bench.documents.figures import Accuracy, Energy
from device_bench.documents.instructions import Instructions
from device_bench.documents.results import BenchResult, FileResult
from device_bench.interval import Interval, share_interval
from device_bench.metrics.stats import percentile

from .summary import REFERENCE, RunSummary, Timing


@dataclass(frozen=True)
class Cell:
    """One figure as text, and a smaller line below it."""

    value: str
    detail: str = ""


@dataclass(frozen=True)
class Grid:
    """A table with a line for each file.

    Attributes:
        headings: of the columns after the file's name.
        rows: a file's name and its cells.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


_NONE = Cell(format.MISSING)


def grid(names: Sequence[str], columns: Mapping[str, Sequence[Cell]]) -> Grid | None:
    """Returns a table without the columns and lines that hold no figure; None when nothing is left."""
    kept = {heading: cells for heading, cells in columns.items() if any(cell.value != format.MISSING for cell in cells)}
    lines = [(name, tuple(cells[i] for cells in kept.values())) for i, name in enumerate(names)]
    rows = tuple((name, cells) for name, cells in lines if any(cell.value != format.MISSING for cell in cells))
    return Grid(tuple(kept), rows) if rows else None


def start_grid(pairs: Sequence[tuple[FileResult, Timing]]) -> Grid | None:
    """Returns how long each file takes to load, the first time, and then."""

    def tail(result: FileResult, q: int) -> Cell:
        return Cell(format.seconds(percentile(result.latency.values, q))) if result.latency else _NONE

    def runs(result: FileResult) -> Cell:
        if result.latency is None:
            return _NONE
        warmup = format.plural(len(result.latency.warmup_values), "warm-up")
        return Cell(format.whole(len(result.latency.values)), f"after {warmup}")

    def started(result: FileResult, seconds: float | None) -> Cell:
        if result.startup is None:
            return _NONE
        return Cell(format.seconds(seconds), f"of {format.plural(len(result.startup.load_s), 'start')}")

    columns = {
        "Load": [started(result, timing.load_s) for result, timing in pairs],
        "First inference": [started(result, timing.first_run_s) for result, timing in pairs],
        **{f"p{q}": [tail(result, q) for result, _ in pairs] for q in (50, 90, 99)},
        "Runs": [runs(result) for result, _ in pairs],
    }
    return grid([result.file for result, _ in pairs], columns)


def count_grid(pairs: Sequence[tuple[FileResult, Timing]]) -> Grid | None:
    """Returns how many instructions each file executes on an emulated target, and of which kinds."""

    def told(show: Callable[[Instructions], Cell]) -> list[Cell]:
        return [show(timing.instructions) if timing.instructions else _NONE for _, timing in pairs]

    columns = {
        "Instructions per run": told(lambda own: Cell(format.count(own.of("all")))),
        "On vectors (SIMD)": told(lambda own: Cell(format.percent(own.of("simd") / own.of("all")))),
        "Dot products of integers": told(lambda own: Cell(format.count(own.of("dot")))),
    }
    return grid([result.file for result, _ in pairs], columns)


def work_grid(bench: BenchResult, pairs: Sequence[tuple[FileResult, Timing]]) -> Grid | None:
    """Returns what each file gets done: images a second, operations a second, and what of the machine that is."""

    def best(timing: Timing) -> Cell:
        one = timing.throughput
        return Cell(format.rate(one.median), format.arrangement(one.batch, one.streams, one.threads)) if one else _NONE

    def alone(result: FileResult) -> Cell:
        own = [one for one in result.throughput if (one.batch, one.streams) == (1, 1)]
        return Cell(format.rate(own[0].median)) if own else _NONE

    def share(result: FileResult, timing: Timing) -> Cell:
        peak = bench.peak_of(result)
        if timing.peak_share is None or peak is None:
            return _NONE
        return Cell(format.percent(timing.peak_share), f"of {format.gflops(peak.best)}, {peak.arithmetic}")

    columns = {
        "Best throughput": [best(timing) for _, timing in pairs],
        "One image at a time": [alone(result) for result, _ in pairs],
        "Operations per image": [Cell(format.flop(result.flops)) for result, _ in pairs],
        "Reached": [Cell(format.gflops(timing.gflops_per_s)) for _, timing in pairs],
        "Share of peak": [share(result, timing) for result, timing in pairs],
    }
    return grid([result.file for result, _ in pairs], columns)


def energy_grid(results: Sequence[FileResult]) -> Grid | None:
    """Returns what an image of each file costs in energy, and always how that is known; None where none is."""
    if not any(result.energy and result.energy.tier != "unavailable" for result in results):
        return None
    asked = [(result.file, result.energy) for result in results if result.energy]

    def own(energy: Energy) -> Cell:
        if energy.tier == "unavailable":
            return Cell("unavailable")
        return Cell(format.joules(energy.joules_per_image), energy.tier)

    def total(energy: Energy) -> Cell:
        return Cell(format.joules(energy.total_joules_per_image), energy.tier if energy.joules else "")

    def idle(energy: Energy) -> Cell:
        return Cell(format.watts(energy.idle_w), energy.tier if energy.idle_w is not None else "")

    def carbon(energy: Energy) -> Cell:
        grid_of = f"grid of {energy.country}" if energy.country else "grid not named"
        known = energy.grams_co2_per_image is not None
        return Cell(format.grams(energy.grams_co2_per_image), grid_of if known else "")

    def windows(energy: Energy) -> Cell:
        if not energy.joules:
            return _NONE
        seconds = format.seconds(min(energy.window_s))
        return Cell(format.plural(len(energy.joules), "window"), f"of {seconds} or more")

    columns = {
        "Energy per image": [own(energy) for _, energy in asked],
        "With idle power": [total(energy) for _, energy in asked],
        "Idle power": [idle(energy) for _, energy in asked],
        "CO₂ per image": [carbon(energy) for _, energy in asked],
        "Over": [windows(energy) for _, energy in asked],
    }
    return grid([name for name, _ in asked], columns)


def energy_notes(results: Sequence[FileResult]) -> list[str]:
    """Returns where the energies come from and why others are missing, each reason once with its files.

    Nothing is said where energy was not asked for at all.
    """
    if not any(result.energy for result in results):
        return []
    said: dict[str, list[str]] = {}
    for result in results:
        for text in _energy_words(result.energy):
            said.setdefault(text, []).append(result.file)
    everywhere = len(results)
    return [
        f"{'All files' if len(names) == everywhere else format.listed(names)}: {text}." for text, names in said.items()
    ]


def _energy_words(energy: Energy | None) -> list[str]:
    if energy is None:
        return ["energy was not asked for"]
    if energy.tier == "unavailable":
        return [f"energy unavailable, {_sentence(energy.reason)}"]
    words = [f"energy {energy.tier} by {energy.source}"]
    if energy.grams_per_kwh is not None:
        words.append(f"CO₂ by {energy.grams_per_kwh:.0f} g/kWh, the grid of {energy.country or 'a country not named'}")
    elif energy.carbon_reason:
        words.append(f"no CO₂, {_sentence(energy.carbon_reason)}")
    return words


def _sentence(text: str | None) -> str:
    """Returns a reason as it stands inside a sentence."""
    return (text or "for no reason that was kept").strip().rstrip(".")


def accuracy_grid(summary: RunSummary, results: Sequence[FileResult]) -> Grid | None:
    """Returns how each file answered labelled images on the target, beside the baseline's file and its export."""
    measured = [(result.file, result.accuracy) for result in results if result.accuracy]
    against = next((own for name, own in measured if name == REFERENCE), None)

    def beside(name: str, own: Accuracy) -> Cell:
        if name == REFERENCE:
            return Cell("reference")
        alike = against is not None and (own.data, own.split, own.images) == (
            against.data,
            against.split,
            against.images,
        )
        return Cell(format.points(against.top1, own.top1)) if against and alike else _NONE

    def exported(name: str) -> Cell:
        row = summary.row(name)
        if row is None or row.top1 is None:
            return _NONE
        return Cell(format.percent(row.top1), f"of {format.whole(row.top1_images)}")

    columns = {
        "Top-1 here": [Cell(format.percent(own.top1), f"of {format.whole(own.images)}") for _, own in measured],
        "95 % interval": [Cell(_percents(wilson(own))) for _, own in measured],
        f"Against {REFERENCE}": [beside(name, own) for name, own in measured],
        "At export": [exported(name) for name, _ in measured],
        "Images": [Cell(own.data, own.split) for _, own in measured],
    }
    return grid([name for name, _ in measured], columns)


def wilson(accuracy: Accuracy) -> Interval:
    """Returns top-1 with its 95 % interval, by how many images it was counted on.

    Ref:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    return share_interval(accuracy.top1, accuracy.images)


def _percents(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
