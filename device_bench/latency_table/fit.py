"""A latency table from the times of the files that were timed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from runtime import (
    BlockPlan,
    LatencyCheck,
    LatencyPrecision,
    LatencyTable,
    MeasurementError,
    ShapePlan,
    WidthGrid,
    latency_of,
)

from .files import LEAST, LayerWidths, Timed, equal_blocks, knots_of, part_depth, wholes_to_time, widest_of

Floats = npt.NDArray[np.float64]

_OFFSET_NS = 1e3
"""In what the offset is fitted, so that all columns are of like size."""

_RANK = 3
"""Of each grid, as a matrix with embed_dim down: a product of matrices costs K times N, in steps along N; the MLP's two
make two such terms, and its activation is a third."""

_TRUST = 0.01
"""How much the factors are held to a common one: like this share of the whole models, each off by all of its time."""


@dataclass(frozen=True)
class Conditions:
    """Where and how the times were taken; see ``LatencyTable``."""

    target: str
    cpu_model: str
    engine: str
    engine_version: str
    threads: int
    precision: LatencyPrecision


def fit_table(plan: ShapePlan, conditions: Conditions, times: Mapping[Timed, float]) -> LatencyTable:
    """Makes the table for ``plan``.

    Args:
        plan: the architecture at its largest widths.
        conditions: under which the times were taken.
        times: of every file of ``parts_to_time`` and ``wholes_to_time``, nanoseconds.

    Raises:
        MeasurementError: a time is missing, or those of whole models do not grow with those of their parts.
    """
    knots, deep = knots_of(plan), part_depth(plan, conditions.precision)

    def time(c: int, block: BlockPlan = LEAST, depth: int = deep, pooled_only: bool = False) -> float:
        file = equal_blocks(plan, c, block, depth), pooled_only
        if file not in times:
            raise MeasurementError("A time is missing from the profile", got=f"embed_dim {c}, {block}")
        return times[file]

    def widths(c: int, pooled_only: bool) -> float:
        wide, least = (time(c, block, 1, pooled_only) for block in (widest_of(plan), LEAST))
        return wide - least

    first = _ascending(np.array([time(c, depth=1, pooled_only=True) for c in knots.embed]))
    one, more = (_ascending(np.array([time(c, depth=depth) for c in knots.embed])) for depth in (1, deep))
    further = _ascending(np.maximum(more - one, 0.0) / max(1, deep - 1))
    shares = [widths(c, True) / before for c in knots.coarse if (before := widths(c, False)) > 0]
    mlp = np.array([[time(c, replace(LEAST, mlp_dim=m)) for m in knots.mlp] for c in knots.embed])
    qk, v = (
        np.array(
            [
                [[time(c, replace(LEAST, num_heads=h, **{name: w})) for w in widths] for h in knots.heads]
                for c in knots.coarse
            ]
        )
        for name, widths in (("qk_dim", knots.qk), ("v_dim", knots.v))
    )
    table = LatencyTable(
        **vars(conditions),
        baseline=plan,
        first=_grid((knots.embed,), first),
        further=_grid((knots.embed,), further),
        mlp=_grid((knots.embed, knots.mlp), _ascending(_low_rank(mlp - mlp[:, :1]) / deep)),
        qk=_grid((knots.coarse, knots.heads, knots.qk), _ascending(_low_rank(qk - qk[:, :1, :1]) / deep)),
        v=_grid((knots.coarse, knots.heads, knots.v), _ascending(_low_rank(v - v[:, :, :1]) / deep)),
        factors=(1.0, 1.0, 1.0, 1.0),
        offset_ns=0,
        checks=(),
        last_share=round(float(np.clip(np.median(shares or [1.0]), 0, LatencyTable.MOST_LAST_SHARE)), 4),
    )
    return _with_residual(table, times)


def _with_residual(table: LatencyTable, times: Mapping[Timed, float]) -> LatencyTable:
    """Fits factors and offset to two of three whole models, and checks the table on the others.

    By least squares of the relative error, none of them negative, with the factors held a little to a common one.
    """
    wholes = wholes_to_time(table.baseline)
    if any(whole not in times for whole in wholes):
        raise MeasurementError("A time is missing from the profile", got="a whole model")
    fitted = [whole for number, whole in enumerate(wholes) if number % 3 < 2]
    measured = np.array([times[whole] for whole in fitted])
    parts = np.array([_parts(table, plan) for plan, _ in fitted])
    ones = np.ones(len(fitted))
    columns = np.column_stack([parts, _OFFSET_NS * ones]) / measured[:, None]
    common = _not_negative(np.column_stack([columns[:, :4].sum(1), columns[:, 4]]), ones)[0]
    held = np.sqrt(_TRUST * len(fitted)) * np.eye(4, columns.shape[1])
    target = np.concatenate([ones, common * held.sum(1)])
    *factors, offset = _not_negative(np.vstack([columns, held]), target)
    if min(common, *factors) <= 0:
        raise MeasurementError("The times of whole models do not grow with those of their parts", fix="Measure again")
    ends, mlp, qk, v = (round(float(factor), 6) for factor in factors)
    table = replace(
        table,
        first=_times(table.first, ends),
        further=_times(table.further, ends),
        mlp=_times(table.mlp, mlp),
        qk=_times(table.qk, qk),
        v=_times(table.v, v),
        factors=(ends, mlp, qk, v),
        offset_ns=round(_OFFSET_NS * offset),
    )
    predict = latency_of(table)
    checks = (LatencyCheck(whole[0], predict(whole[0]), round(times[whole])) for whole in wholes[2::3])
    return replace(table, checks=tuple(checks))


def _not_negative(matrix: Floats, target: Floats) -> Floats:
    """Returns the least-squares solution without negative values: the best of all choices of which are zero."""
    count, best, least = matrix.shape[1], np.zeros(matrix.shape[1]), float(target @ target)
    for chosen in (list(some) for size in range(1, count + 1) for some in combinations(range(count), size)):
        values = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)[0]
        error = float(((matrix[:, chosen] @ values - target) ** 2).sum())
        if error < least and values.min() >= 0:
            best, least = np.zeros(count), error
            best[chosen] = values
    return best


def _parts(table: LatencyTable, plan: ShapePlan) -> tuple[float, float, float, float]:
    """Returns what the ends, the MLPs, the queries and keys, and the values of a plan take, nanoseconds."""
    c, further = plan.embed_dim, len(plan.blocks) - 1
    blocks = list(zip((*(1.0,) * further, table.last_share), plan.blocks, strict=True))
    return (
        table.first.at(c) + further * table.further.at(c),
        sum(share * table.mlp.at(c, block.mlp_dim) for share, block in blocks),
        sum(share * table.qk.at(c, block.num_heads, block.qk_dim) for share, block in blocks),
        sum(share * table.v.at(c, block.num_heads, block.v_dim) for share, block in blocks),
    )


def _low_rank(values: Floats) -> Floats:
    """Returns what is left of a grid, embed_dim first, without what cannot be but noise."""
    matrix = values.reshape(len(values), -1)
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    kept: Floats = (left[:, :_RANK] * sizes[:_RANK]) @ right[:_RANK]
    return kept.reshape(values.shape)


def _ascending(values: Floats) -> Floats:
    """Returns the values with no descent along any axis: midway between the nearest ones above and below.

    Noise must not make a narrower model the slower one: a search would turn on it.
    """
    for axis in range(values.ndim):
        above = np.maximum.accumulate(values, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(values, axis), axis=axis), axis)
        values = (above + below) / 2
    return values


def _grid(axes: Sequence[LayerWidths], values: Floats) -> WidthGrid:
    return WidthGrid(tuple(axes), tuple(round(float(value), 1) for value in values.reshape(-1)))


def _times(grid: WidthGrid, factor: float) -> WidthGrid:
    return replace(grid, ns=tuple(round(factor * value, 1) for value in grid.ns))
