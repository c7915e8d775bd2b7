"""A latency table: the time of every width on one target, and the latency of any plan from it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, product
from statistics import median
from typing import Any, ClassVar, Literal

from runtime.storage.documents import Document

from .errors import ArtifactError, PlanError
from .plan import BlockPlan, ShapePlan

LatencyPrecision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class WidthGrid:
    """A quantity given at all combinations of some widths, and interpolated linearly between them.

    Attributes:
        axes: widths along each axis, ascending.
        ns: the quantity at every combination, ns; the last axis varies fastest.

    Raises:
        ArtifactError: an axis is not ascending, or there are more or fewer values than crossings.
    """

    axes: tuple[tuple[int, ...], ...]
    ns: tuple[float, ...]

    def __post_init__(self) -> None:
        for axis in self.axes:
            if not axis or any(a >= b for a, b in pairwise(axis)):
                raise ArtifactError("The widths of a latency table must ascend", got=list(axis))
        crossings = math.prod(len(axis) for axis in self.axes)
        if crossings != len(self.ns) or not all(math.isfinite(value) for value in self.ns):
            raise ArtifactError("A latency table needs a finite time for each crossing of its widths", got=len(self.ns))

    def at(self, *widths: int) -> float:
        """Returns the quantity at ``widths``, nanoseconds; beyond the last width of an axis, that at the last."""
        corners = [_between(axis, width) for axis, width in zip(self.axes, widths, strict=True)]
        total = 0.0
        for choice in product(*corners):
            index, weight = 0, 1.0
            for axis, (position, share) in zip(self.axes, choice, strict=True):
                index, weight = index * len(axis) + position, weight * share
            total += weight * self.ns[index]
        return total


@dataclass(frozen=True)
class LatencyCheck:
    """A whole model that was predicted and then measured.

    Attributes:
        plan: its shape.
        predicted_ns: by the table.
        measured_ns: the median.
    """

    plan: ShapePlan
    predicted_ns: int
    measured_ns: int

    @property
    def error(self) -> float:
        """How far off the prediction was, as a share of the measured time."""
        return abs(self.predicted_ns - self.measured_ns) / self.measured_ns


@dataclass(frozen=True)
class LatencyTable:
    """What every width costs in time, for one architecture on one target.

    A model takes ``first`` and ``further`` for each block but one, all at their least widths, plus what the widths
    of every MLP and attention add, plus ``offset_ns``. The last block computes what the head reads alone, so that its
    widths add a share of what they would before it. The grids are those measured, each times a factor; factors and
    offset are the residual, fitted to whole models.

    Attributes:
        target: where it was measured.
        cpu_model: of that machine.
        engine: which ran the files.
        engine_version: of the engine.
        threads: of the engine.
        precision: of the files.
        baseline: the architecture, at its largest widths.
        first: of a model of one block, as it ships, over (embed_dim).
        further: of each further block, over (embed_dim).
        mlp: what an MLP adds, over (embed_dim, mlp_dim).
        qk: what heads, queries and keys add, over (embed_dim, num_heads, qk_dim).
        v: what values and the projection add, over (embed_dim, num_heads, v_dim).
        factors: that the grids were multiplied by: of ``first`` and ``further``, ``mlp``, ``qk``, ``v``.
        offset_ns: added to the sum.
        checks: whole models that neither the table nor its residual was fitted to.
        last_share: of what its widths would cost in any other place, what those of the last block do.
        notes: what disturbed the machine while it was measured, in plain words; empty where nothing was seen to.
        anchors: models near the budget of a run that were timed to correct the table, in order: what it predicted of
            each before, and the measured time, as a share of the whole model's.

    Raises:
        ArtifactError: ``last_share`` is not between 0 and ``MOST_LAST_SHARE``.
    """

    MOST_LAST_SHARE: ClassVar[float] = 1.5

    target: str
    cpu_model: str
    engine: str
    engine_version: str
    threads: int
    precision: LatencyPrecision
    baseline: ShapePlan
    first: WidthGrid
    further: WidthGrid
    mlp: WidthGrid
    qk: WidthGrid
    v: WidthGrid
    factors: tuple[float, float, float, float]
    offset_ns: int
    checks: tuple[LatencyCheck, ...]
    last_share: float = 1.0
    notes: tuple[str, ...] = ()
    anchors: tuple[LatencyCheck, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.last_share <= self.MOST_LAST_SHARE:
            raise ArtifactError(
                "The last block's share of a latency table is out of range",
                expected=f"0 to {self.MOST_LAST_SHARE}",
                got=self.last_share,
            )

    @property
    def median_error(self) -> float:
        """The median error of the checks, as a share of the measured time; not a number where there is none."""
        return median(check.error for check in self.checks) if self.checks else math.nan


def latency_of(table: LatencyTable) -> Callable[[ShapePlan], int]:
    """Returns a function from a plan to its predicted latency, nanoseconds.

    It is additive: with embed_dim fixed, the sum of a constant, a part of every MLP and a part of every attention. The
    parts of the last block are of their own; in all other places equal widths cost the same.
    """

    @cache
    def ends(embed_dim: int, depth: int) -> int:
        return table.offset_ns + round(table.first.at(embed_dim) + (depth - 1) * table.further.at(embed_dim))

    @cache
    def mlp(share: float, embed_dim: int, mlp_dim: int) -> int:
        return round(share * table.mlp.at(embed_dim, mlp_dim))

    @cache
    def attention(share: float, embed_dim: int, heads: int, qk_dim: int, v_dim: int) -> int:
        return round(share * (table.qk.at(embed_dim, heads, qk_dim) + table.v.at(embed_dim, heads, v_dim)))

    def block(share: float, c: int, widths: BlockPlan) -> int:
        return mlp(share, c, widths.mlp_dim) + attention(share, c, widths.num_heads, widths.qk_dim, widths.v_dim)

    def latency(plan: ShapePlan) -> int:
        c, (*others, last) = plan.embed_dim, plan.blocks
        before = sum(block(1.0, c, widths) for widths in others)
        return ends(c, len(plan.blocks)) + before + block(table.last_share, c, last)

    return latency


def check_fits(table: LatencyTable, plan: ShapePlan) -> None:
    """Refuses a table that was not measured for the architecture of ``plan``.

    Raises:
        PlanError: the tables's architecture is another, or narrower.
    """
    known = table.baseline
    least = replace(plan, embed_dim=known.embed_dim, blocks=known.blocks, attn_scale=known.attn_scale)
    widest = _widest(known)
    wide = _widest(plan)
    if least != known or plan.embed_dim > known.embed_dim or any(a > b for a, b in zip(wide, widest, strict=True)):
        raise PlanError(
            "The latency table was measured for another architecture",
            fix="Measure one for this model with: pocketvit profile",
        )


def _refuse_without_last_share(table: dict[str, Any], version: int) -> dict[str, Any]:
    if "last_share" not in table:  # it cannot be made up for a table of version 1
        raise ArtifactError("It was measured by an older PocketViT", fix="Measure it again with: pocketvit profile")
    return table


LATENCY_DOCUMENT = Document("pocketvit.latency", 2, LatencyTable, key="table", upgrade=_refuse_without_last_share)


def _widest(plan: ShapePlan) -> tuple[int, ...]:
    blocks: Sequence[BlockPlan] = plan.blocks
    return tuple(max(getattr(b, name) for b in blocks) for name in ("num_heads", "qk_dim", "v_dim", "mlp_dim"))


def _between(axis: tuple[int, ...], width: int) -> list[tuple[int, float]]:
    """Returns the positions on the axis that ``width`` lies between, each with its weight."""
    if width <= axis[0]:
        return [(0, 1.0)]
    if width >= axis[-1]:
        return [(len(axis) - 1, 1.0)]
    high = bisect_right(axis, width)
    share = (width - axis[high - 1]) / (axis[high] - axis[high - 1])
    return [(high - 1, 1 - share), (high, share)] if share else [(high - 1, 1.0)]
