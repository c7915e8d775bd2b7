"""What to time for a latency table, and the table from the times.

Every file timed for a part is a whole model of one or two blocks, at its least widths but for that part: what it adds
is the difference. A part's time is then taken in the place it has in a model, with the weights as cold and the
operators fused as they will be. In files that ship, the last block computes what the head reads alone; in those that
parts are timed in it is like all others, and what it takes in one that ships is timed beside.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from runtime import (
    MULTIPLE,
    BlockPlan,
    Check,
    Grid,
    LatencyPrecision,
    LatencyTable,
    MeasurementError,
    ShapePlan,
    latency_of,
)

Timed = tuple[ShapePlan, bool]
"""A file to time: its shape, and whether its last block computes what the head reads alone, as in files that ship."""

Floats = npt.NDArray[np.float64]
Widths = tuple[int, ...]

_KINDS = ("embed_dim", "num_heads", "qk_dim", "v_dim", "mlp_dim")

LEAST = BlockPlan(1, MULTIPLE, MULTIPLE, MULTIPLE)

_WHOLES = 60
"""Whole models; the residual is fitted to two of three, and the table is checked on the third."""

_RANK = 3
"""Of each grid, as a matrix with embed_dim down: a product of matrices costs K times N, in steps along N; the MLP's two
make two such terms, and its activation is a third."""

_TRUST = 0.002
"""How much the factors are held to a common one: like this share of the whole models, each off by all of its time."""


@dataclass(frozen=True)
class Knots:
    """The widths a table is measured at; each ascends from the least to the largest.

    Attributes:
        embed: of the MLPs and of the model as a whole.
        coarse: fewer of the same, for the attentions.
        mlp: of mlp_dim.
        heads: of num_heads.
        qk: of qk_dim.
        v: of v_dim.
    """

    embed: Widths
    coarse: Widths
    mlp: Widths
    heads: Widths
    qk: Widths
    v: Widths


@dataclass(frozen=True)
class Conditions:
    """Where and how the times were taken; see ``LatencyTable``."""

    target: str
    cpu_model: str
    engine: str
    engine_version: str
    threads: int
    precision: LatencyPrecision


def knots_of(plan: ShapePlan) -> Knots:
    """Returns the widths to measure for the architecture of ``plan``: all up to a number, then evenly fewer."""
    widest = _widest(plan)
    return Knots(
        _spread(plan.embed_dim, MULTIPLE, 24),
        _spread(plan.embed_dim, MULTIPLE, 8),
        _spread(widest.mlp_dim, MULTIPLE, 48),
        _spread(widest.num_heads, 1, 6),
        _spread(widest.qk_dim, MULTIPLE, 8),
        _spread(widest.v_dim, MULTIPLE, 8),
    )


def parts_to_time(plan: ShapePlan) -> tuple[Timed, ...]:
    """Returns the files of one and two blocks whose times make the table for ``plan``, each once."""
    knots = knots_of(plan)
    least = [_one(plan, c, LEAST) for c in (*knots.embed, *knots.coarse)]
    wide = [_one(plan, c, _widest(plan)) for c in knots.coarse]
    plans = [*least, *wide, *(replace(one, blocks=one.blocks * 2) for one in least)]
    plans += [_one(plan, c, replace(LEAST, mlp_dim=m)) for c in knots.embed for m in knots.mlp]
    for c in knots.coarse:
        for heads in knots.heads:
            plans += [_one(plan, c, replace(LEAST, num_heads=heads, qk_dim=width)) for width in knots.qk]
            plans += [_one(plan, c, replace(LEAST, num_heads=heads, v_dim=width)) for width in knots.v]
    return tuple(dict.fromkeys([*((one, False) for one in plans), *((one, True) for one in (*least, *wide))]))


def wholes_to_time(plan: ShapePlan, seed: int = 0) -> tuple[Timed, ...]:
    """Returns the model itself and random smaller ones, to fit the residual to and to check the table on."""
    return tuple((whole, True) for whole in dict.fromkeys((plan, *random_plans(plan, _WHOLES - 1, seed))))


def random_plans(plan: ShapePlan, count: int, seed: int) -> tuple[ShapePlan, ...]:
    """Returns plans of which some kinds of width are drawn between a quarter of those of ``plan`` and all of them."""
    rng = random.Random(seed)

    def draw(width: int, step: int) -> int:
        most = width // step
        return step * rng.randint(-(-most // 4), most)

    def plan_with(kinds: Sequence[str]) -> ShapePlan:
        def width(block: BlockPlan, name: str) -> int:
            own: int = getattr(block, name)
            return draw(own, 1 if name == "num_heads" else MULTIPLE) if name in kinds else own

        blocks = tuple(BlockPlan(*(width(block, name) for name in _KINDS[1:])) for block in plan.blocks)
        return replace(
            plan, embed_dim=draw(plan.embed_dim, MULTIPLE) if "embed_dim" in kinds else plan.embed_dim, blocks=blocks
        )

    return tuple(plan_with(rng.sample(_KINDS, rng.randint(1, len(_KINDS)))) for _ in range(count))


def fit_table(plan: ShapePlan, conditions: Conditions, times: Mapping[Timed, float]) -> LatencyTable:
    """Makes the table for ``plan``.

    Args:
        plan: the architecture at its largest widths.
        conditions: under which the times were taken.
        times: of every file of ``parts_to_time`` and ``wholes_to_time``, nanoseconds.

    Raises:
        MeasurementError: a time is missing, or those of whole models do not grow with those of their parts.
    """
    knots = knots_of(plan)

    def time(c: int, block: BlockPlan = LEAST, depth: int = 1, pooled_only: bool = False) -> float:
        one = replace(_one(plan, c, block), blocks=(block,) * depth)
        if (one, pooled_only) not in times:
            raise MeasurementError("A time is missing from the profile", got=f"embed_dim {c}, {block}")
        return times[one, pooled_only]

    def widths(c: int, pooled_only: bool) -> float:
        return time(c, _widest(plan), pooled_only=pooled_only) - time(c, pooled_only=pooled_only)

    first = _ascending(np.array([time(c, pooled_only=True) for c in knots.embed]))
    one, both = (_ascending(np.array([time(c, depth=depth) for c in knots.embed])) for depth in (1, 2))
    further = _ascending(np.maximum(both - one, 0.0))
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
        mlp=_grid((knots.embed, knots.mlp), _ascending(_low_rank(mlp - mlp[:, :1]))),
        qk=_grid((knots.coarse, knots.heads, knots.qk), _ascending(_low_rank(qk - qk[:, :1, :1]))),
        v=_grid((knots.coarse, knots.heads, knots.v), _ascending(_low_rank(v - v[:, :, :1]))),
        factors=(1.0, 1.0, 1.0, 1.0),
        offset_ns=0,
        checks=(),
        last_share=round(float(np.clip(np.median(shares or [1.0]), 0, LatencyTable.MOST_LAST_SHARE)), 4),
    )
    return _with_residual(table, times)


def _with_residual(table: LatencyTable, times: Mapping[Timed, float]) -> LatencyTable:
    """Fits factors and offset to two of three whole models, and checks the table on the others.

    By least squares of the relative error, with the factors held a little to a common one.
    """
    wholes = wholes_to_time(table.baseline)
    if any(whole not in times for whole in wholes):
        raise MeasurementError("A time is missing from the profile", got="a whole model")
    fitted = [whole for number, whole in enumerate(wholes) if number % 3 < 2]
    measured = np.array([times[whole] for whole in fitted])
    sums = np.array([_parts(table, plan) for plan, _ in fitted])
    ones = np.ones(len(fitted))
    columns = np.column_stack([sums, 1e3 * ones]) / measured[:, None]  # the offset in microseconds
    common = np.column_stack([columns[:, :4].sum(1), columns[:, 4]])
    scale = np.linalg.lstsq(common, ones, rcond=None)[0][0]
    for trust in (_TRUST, 10 * _TRUST, 100 * _TRUST, 1000 * _TRUST):
        held = np.sqrt(trust * len(fitted)) * np.eye(4, 5)
        target = np.concatenate([ones, scale * held.sum(1)])
        *factors, offset = np.linalg.lstsq(np.vstack([columns, held]), target, rcond=None)[0]
        if min(factors) > 0:
            break
    if min(scale, *factors) <= 0:
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
        offset_ns=round(1e3 * offset),
    )
    predict = latency_of(table)
    checks = (Check(whole[0], predict(whole[0]), round(times[whole])) for whole in wholes[2::3])
    return replace(table, checks=tuple(checks))


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


def _widest(plan: ShapePlan) -> BlockPlan:
    """Returns a block of the largest widths that any block of ``plan`` has."""
    return BlockPlan(*(max(int(getattr(block, name)) for block in plan.blocks) for name in _KINDS[1:]))


def _one(plan: ShapePlan, embed_dim: int, block: BlockPlan) -> ShapePlan:
    return replace(plan, embed_dim=embed_dim, blocks=(block,))


def _spread(largest: int, step: int, count: int) -> Widths:
    """Returns multiples of ``step`` up to ``largest``: all if they are no more than ``count``, else every n-th."""
    stride = step * -(-(largest // step) // count)
    return tuple(sorted({step, *range(largest, 0, -stride)}))


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


def _grid(axes: Sequence[Widths], values: Floats) -> Grid:
    return Grid(tuple(axes), tuple(round(float(value), 1) for value in values.reshape(-1)))


def _times(grid: Grid, factor: float) -> Grid:
    return replace(grid, ns=tuple(round(factor * value, 1) for value in grid.ns))
