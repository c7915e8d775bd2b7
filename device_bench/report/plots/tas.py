"""Pictures of a transformable architecture search: how the odds of its widths and depth came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from runtime import ArtifactError, decode
from runtime.storage.journals import TAS_JOURNAL

from .panels import AFTER, BEFORE, MUTED, SECOND, TITLE_PAD, Draw, legend_above
from .search import unit_name

COLUMNS = 40
"""Most moments of a picture, evenly chosen; the first and the last are always there."""

SHADES = 20
"""Shades a probability is shown in."""

WidthKind = Literal["embed", "depth", "heads", "mlp"]

_TITLES: dict[WidthKind, str] = {"embed": "embed_dim", "depth": "Blocks", "heads": "Heads", "mlp": "mlp_dim"}


@dataclass(frozen=True)
class CandidateOdds:
    """The widths there were to choose from, smallest first; of ``heads`` and ``mlp`` for every block."""

    embed: tuple[int, ...]
    depth: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    mlp: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Odds:
    """Their probabilities, 0..1."""

    embed: tuple[float, ...]
    depth: tuple[float, ...]
    heads: tuple[tuple[float, ...], ...]
    mlp: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Moment:
    """One line of the journal.

    Attributes:
        step: steps taken.
        temperature: temperature of the samples.
        train_loss: loss of the step's batch for the weights, nats; None before the first step.
        valid_loss: loss of the step's batch for the odds.
        cost: cost of the most likely plan, in the unit of the budget.
        expected_cost: mean over all plans by their odds.
        odds: odds of every choice.
    """

    step: int
    temperature: float
    train_loss: float | None
    valid_loss: float | None
    cost: int
    expected_cost: float
    odds: Odds


@dataclass(frozen=True)
class TasLog:
    """A search as its journal has it.

    Attributes:
        unit: unit of the cost: ``macs``, ``params`` or ``latency@TARGET``.
        limit: the budget.
        total: cost of the unpruned model.
        tolerance: share of the limit that the cost loss leaves alone.
        candidates: candidates of every choice.
        moments: lines of the journal in order, at least one.
    """

    unit: str
    limit: int
    total: int
    tolerance: float
    candidates: CandidateOdds
    moments: tuple[Moment, ...]


def read_tas(path: Path) -> TasLog | None:
    """Reads a journal; None where there is none, or it records nothing yet. A last line cut short is left out.

    Raises:
        ArtifactError: it is damaged, or of a newer version.
    """
    if not path.is_file():
        return None
    try:
        header, lines = TAS_JOURNAL.read(path)
        settings = header["settings"]
        fields = (settings["cost"], settings["limit"], settings["total"], settings["tas"]["tolerance"])
        candidates = decode(CandidateOdds, header["candidates"], f"{path}: candidates")
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} cannot be read as the journal of a search", got=repr(error)[:120]) from error
    moments = []
    for where, line in lines:
        moments.append(decode(Moment, line, where))
        _check_shape(candidates, moments[-1].odds, where)
    if not moments:
        return None
    log = decode(_Fields, dict(zip(("unit", "limit", "total", "tolerance"), fields, strict=True)), str(path))
    if log.limit < 1 or log.total < 1:
        raise ArtifactError(f"{path} has figures that cannot be", fix="It was edited by hand")
    return TasLog(log.unit, log.limit, log.total, log.tolerance, candidates, tuple(moments))


def panels(log: TasLog) -> list[tuple[str, Draw]]:
    """Returns the pictures of a search, each with its name: cost, then the odds of every choice over time."""
    return [
        ("cost", cost_over_time(log)),
        ("embed", odds_over_time(log, "embed")),
        ("depth", odds_over_time(log, "depth")),
        ("heads", widths_over_time(log, "heads")),
        ("mlp", widths_over_time(log, "mlp")),
    ]


def odds_over_time(log: TasLog, kind: Literal["embed", "depth"]) -> Draw:
    """Returns a panel of the odds of every candidate over the steps: the likelier the darker."""
    names = [str(width) for width in getattr(log.candidates, kind)]

    def draw(axes: Any) -> None:
        moments = _chosen(log)
        rows = list(zip(*(getattr(moment.odds, kind) for moment in moments), strict=True))
        _shade(axes, moments, rows, names)
        axes.set_title(f"{_TITLES[kind]}, odds of each candidate")

    return draw


def widths_over_time(log: TasLog, kind: Literal["heads", "mlp"]) -> Draw:
    """Returns a panel of the mean width of every block over the steps, by share of the full width: darker is wider."""
    every = getattr(log.candidates, kind)

    def draw(axes: Any) -> None:
        moments = _chosen(log)
        rows = [
            [_mean(widths, getattr(moment.odds, kind)[block]) / widths[-1] for moment in moments]
            for block, widths in enumerate(every)
        ]
        _shade(axes, moments, rows, [str(block + 1) for block in range(len(every))])
        axes.set_title(f"{_TITLES[kind]}, mean share left, by block")

    return draw


def cost_over_time(log: TasLog) -> Draw:
    """Returns a panel of the cost of the most likely plan and of the expected cost over the steps."""

    def draw(axes: Any) -> None:
        scale, steps = 100 / log.total, [moment.step for moment in log.moments]
        target = scale * log.limit
        axes.axhspan((1 - log.tolerance) * target, (1 + log.tolerance) * target, color=SECOND, alpha=0.2, linewidth=0)
        axes.axhline(target, color=SECOND, linewidth=1, label="target")
        likeliest = [scale * moment.cost for moment in log.moments]
        expected = [scale * moment.expected_cost for moment in log.moments]
        axes.plot(steps, likeliest, color=AFTER, linewidth=1.6, drawstyle="steps-post", label="most likely plan")
        axes.plot(steps, expected, color=BEFORE, linewidth=1.6, label="expected")
        axes.set_title(f"{unit_name(log.unit)}, % of the baseline's", pad=TITLE_PAD)
        axes.set_xlabel("step")
        legend_above(axes)

    return draw


@dataclass(frozen=True)
class _Fields:
    unit: str
    limit: int
    total: int
    tolerance: float


def _check_shape(candidates: CandidateOdds, odds: Odds, where: str) -> None:
    """Refuses odds of other candidates than the header names."""
    flat = all(len(getattr(odds, kind)) == len(getattr(candidates, kind)) > 0 for kind in ("embed", "depth"))
    for kind in ("heads", "mlp"):
        there, known = getattr(odds, kind), getattr(candidates, kind)
        flat = flat and [len(own) for own in there] == [len(own) for own in known] and all(map(len, known))
    if not flat:
        raise ArtifactError(f"{where} has the odds of other candidates than the header", fix="It was edited by hand")


def _chosen(log: TasLog) -> list[Moment]:
    """Returns the moments that are drawn."""
    last = len(log.moments) - 1
    return [log.moments[i] for i in sorted({round(k * last / (COLUMNS - 1)) for k in range(COLUMNS)})]


def _mean(widths: Sequence[int], odds: Sequence[float]) -> float:
    return sum(width * p for width, p in zip(widths, odds, strict=True))


def _shade(axes: Any, moments: Sequence[Moment], rows: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    """Draws values of 0..1 as shades, a row for each name; each lasts to the next moment, equal neighbours as one."""
    steps = [moment.step for moment in moments]
    ends = [*steps[1:], steps[-1] + max(1, (steps[-1] - steps[0]) // max(1, len(steps) - 1))]
    for place, values in enumerate(rows):
        shades = [min(SHADES, max(0, round(SHADES * value))) for value in values]
        runs = [(shade, list(run)) for shade, run in groupby(range(len(shades)), key=shades.__getitem__) if shade]
        for shade, columns in runs:
            start, width = steps[columns[0]], ends[columns[-1]] - steps[columns[0]]
            axes.broken_barh(
                [(start, width)], (place - 0.42, 0.84), facecolors=AFTER, alpha=shade / SHADES, linewidth=0
            )
    axes.set_xlim(steps[0], ends[-1])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(names)), list(names), color=MUTED, fontsize=7.5)
    axes.grid(visible=False)
    axes.set_xlabel("step")
