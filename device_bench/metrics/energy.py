"""Energy of one image, by the best source that the machine has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device_bench import format
from device_bench.columns import Cell
from device_bench.documents.figures import Energy
from device_bench.timing.inputs import input_shape, random_input
from runtime import open_engine

from .base import Measured, Metric, MetricTask, Number, column, held


def measure_energy_of(task: MetricTask) -> Energy:
    """Measures the energy of an inference.

    Raises:
        ArtifactError: the file cannot be loaded.
        MissingExtraError: an engine is not installed.
        MeasurementError: the file fails while it runs.
    """
    from device_bench.energy.measure import find_source, measure_energy

    task.sign()
    engine = open_engine(task.file, threads=task.threads)
    batch = random_input(engine, task.file.name, task.seed)

    def run() -> None:
        task.sign()
        engine.run(batch)

    images = input_shape(engine, task.file.name)[0]
    return measure_energy(run, images, find_source(), country=task.options.get("country"))


def _per_image(energy: Energy) -> Cell:
    if energy.tier == "unavailable":
        return Cell("unavailable", known=False)
    return Cell(format.joules(energy.joules_per_image), energy.tier, joined=True)


def _tier(own: Measured) -> str:
    return own.file.energy.tier if own.file.energy else ""


def _grid(own: Measured) -> str:
    return f"grid of {own.file.energy.country}" if own.file.energy and own.file.energy.country else "grid not named"


def _window(own: Measured) -> str:
    return f"of {format.seconds(min(own.file.energy.window_s))} or more" if own.file.energy else ""


def _note(measured: Sequence[Measured]) -> str:
    if not any(own.file.energy and own.file.energy.tier != "unavailable" for own in measured):
        return ""
    return (
        "Of one image, median over the windows, beyond what the machine draws with nothing to do; that idle power was "
        "taken just before. CO₂ is of the whole, idle power included."
    )


def remarks(measured: Sequence[Measured]) -> Iterable[tuple[str, str]]:
    """Yields where the energy of each file comes from, or why there is none; nothing if energy was not requested."""
    if not any(own.file.energy for own in measured):
        return
    for own in measured:
        for text in _words(own.file.energy):
            yield own.file.file, text


def _words(energy: Energy | None) -> list[str]:
    if energy is None:
        return ["energy was not asked for"]
    if energy.tier == "unavailable":
        return [f"energy unavailable, {energy.reason}"]
    words = [f"energy {energy.tier} by {energy.source}"]
    if energy.grams_per_kwh is not None:
        words.append(f"CO₂ by {energy.grams_per_kwh:.0f} g/kWh, the grid of {energy.country or 'a country not named'}")
    elif energy.carbon_reason:
        words.append(f"no CO₂, {energy.carbon_reason}")
    return words


def _axis(measured: Sequence[Measured]) -> str:
    tiers = {own.file.energy.tier for own in measured if own.file.energy and own.file.energy.joules}
    return f"energy per image, mJ ({' and '.join(sorted(tiers, reverse=True))})"


def _carbon_reason(own: Measured) -> str | None:
    energy = own.file.energy
    return (energy.reason or energy.carbon_reason) if energy else None


_BENCH = frozenset({"bench", "report"})

ENERGY = Metric(
    name="energy",
    title="energy",
    type=Energy,
    measure=measure_energy_of,
    wanted=lambda request: request.energy,
    options=lambda request: {"country": request.country},
    columns=(
        column("Energy per image", held("energy", lambda own: own), text=_per_image, short="energy"),
        column(
            "With idle power",
            held("energy", lambda own: own.total_joules_per_image),
            text=format.joules,
            detail=_tier,
            views=frozenset({"report"}),
        ),
        column(
            "Idle power",
            held("energy", lambda own: own.idle_w),
            text=format.watts,
            detail=_tier,
            short="idle power",
            views=_BENCH,
        ),
        column(
            "CO₂ per image",
            held("energy", lambda own: own.grams_co2_per_image),
            text=format.grams,
            detail=_grid,
            short="CO2",
            views=_BENCH,
        ),
        column(
            "Over",
            held("energy", lambda own: len(own.joules) or None),
            text=lambda count: format.plural(count, "window"),
            detail=_window,
            views=frozenset({"report"}),
        ),
    ),
    numbers=(
        Number(
            "joules_per_image",
            "energy",
            held("energy", lambda own: own.joules_per_image),
            format.joules,
            reason=held("energy", lambda own: own.reason),
            cost="energy",
            axis=_axis,
            scale=1e-3,
        ),
        Number(
            "grams_co2_per_image",
            "CO₂",
            held("energy", lambda own: own.grams_co2_per_image),
            format.grams,
            reason=_carbon_reason,
        ),
    ),
    section="Energy",
    note=_note,
    remarks=remarks,
)
