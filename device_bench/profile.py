"""What to time for a latency table, and the table from the times.

Every file timed for a part is a model of several equal blocks, at their least widths but for that part: what the part
adds is the difference over the depth. Its time is then taken in the place it has in a model: with operators fused, and
with weights that come from as far away, as they will be. (In a model of one block they stay in a nearer cache, and a
part takes two thirds of the time.) In files that ship, the last block computes what the head reads alone; in those that
parts are timed in it is like all others, and what it takes in one that ships is timed beside.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

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
    params,
)

Timed = tuple[ShapePlan, bool]
"""A file to time: its shape, and whether its last block computes what the head reads alone, as in files that ship."""

Floats = npt.NDArray[np.float64]
Widths = tuple[int, ...]

_OFFSET_NS = 1e3
"""In what the offset is fitted, so that all columns are of like size."""

_KINDS = ("embed_dim", "num_heads", "qk_dim", "v_dim", "mlp_dim")

LEAST = BlockPlan(1, MULTIPLE, MULTIPLE, MULTIPLE)

_WHOLES = 60
"""Whole models; the residual is fitted to two of three, and the table is checked on the third."""

_RANK = 3
"""Of each grid, as a matrix with embed_dim down: a product of matrices costs K times N, in steps along N; the MLP's two
make two such terms, and its activation is a third."""

_TRUST = 0.01
"""How much the factors are held to a common one: like this share of the whole models, each off by all of its time."""

_DEEP_BYTES = 8 * 2**20
"""Blocks for a part are so many that the weights of the widest ones take at least this, which no near cache holds."""

_NARROWEST, _SPREAD = 64, 1.0
"""Of a narrow plan, a kind of width is a 64th to all of the model's in the middle, and up to e times more or less in a
block."""


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


def part_depth(plan: ShapePlan, precision: LatencyPrecision) -> int:
    """Returns the number of blocks of the files that parts are timed in."""
    least, deeper = (replace(plan, blocks=(_widest(plan),) * depth) for depth in (1, 2))
    block_bytes = (params(deeper) - params(least)) * (1 if precision == "int8" else 4)
    return min(len(plan.blocks), max(2, -(-_DEEP_BYTES // block_bytes)))


def parts_to_time(plan: ShapePlan, precision: LatencyPrecision) -> tuple[Timed, ...]:
    """Returns the files of one block and of several whose times make the table for ``plan``, each once."""
    knots, depth = knots_of(plan), part_depth(plan, precision)
    least = [_even(plan, c, LEAST, 1) for c in (*knots.embed, *knots.coarse)]
    wide = [_even(plan, c, _widest(plan), 1) for c in knots.coarse]
    plans = [*least, *wide]
    plans += [_even(plan, c, replace(LEAST, mlp_dim=m), depth) for c in knots.embed for m in knots.mlp]
    for c in knots.coarse:
        for heads in knots.heads:
            plans += [_even(plan, c, replace(LEAST, num_heads=heads, qk_dim=width), depth) for width in knots.qk]
            plans += [_even(plan, c, replace(LEAST, num_heads=heads, v_dim=width), depth) for width in knots.v]
    return tuple(dict.fromkeys([*((one, False) for one in plans), *((one, True) for one in (*least, *wide))]))


def wholes_to_time(plan: ShapePlan, seed: int = 0) -> tuple[Timed, ...]:
    """Returns the model itself and random smaller ones, to fit the residual to and to check the table on.

    They are somewhat and much narrower by turns: a search goes down to the least widths, and a residual that had seen
    none would be far off there.
    """
    half = _WHOLES // 2
    pairs = zip(random_plans(plan, half, seed), narrow_plans(plan, half, seed), strict=True)
    return tuple((whole, True) for whole in dict.fromkeys((plan, *(one for pair in pairs for one in pair))))


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


def narrow_plans(plan: ShapePlan, count: int, seed: int) -> tuple[ShapePlan, ...]:
    """Returns plans of which some kinds of width are drawn down to the least ones, small shares as often as large.

    A kind has a share of its own in a plan, and in every block one around it.
    """
    rng = random.Random(seed)

    def narrowed(width: int, step: int, share: float) -> int:
        return step * max(1, min(width // step, round(share * width / step)))

    def plan_of_shares(shares: Mapping[str, float]) -> ShapePlan:
        def width(block: BlockPlan, name: str) -> int:
            own: int = getattr(block, name)
            if name not in shares:
                return own
            share = shares[name] * math.exp(rng.uniform(-_SPREAD, _SPREAD))
            return narrowed(own, 1 if name == "num_heads" else MULTIPLE, share)

        blocks = tuple(BlockPlan(*(width(block, name) for name in _KINDS[1:])) for block in plan.blocks)
        return replace(plan, embed_dim=narrowed(plan.embed_dim, MULTIPLE, shares.get("embed_dim", 1.0)), blocks=blocks)

    def drawn() -> ShapePlan:
        kinds = rng.sample(_KINDS, rng.randint(1, len(_KINDS)))
        return plan_of_shares({name: math.exp(rng.uniform(-math.log(_NARROWEST), 0)) for name in kinds})

    return tuple(drawn() for _ in range(count))


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
        file = _even(plan, c, block, depth), pooled_only
        if file not in times:
            raise MeasurementError("A time is missing from the profile", got=f"embed_dim {c}, {block}")
        return times[file]

    def widths(c: int, pooled_only: bool) -> float:
        wide, least = (time(c, block, 1, pooled_only) for block in (_widest(plan), LEAST))
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
    checks = (Check(whole[0], predict(whole[0]), round(times[whole])) for whole in wholes[2::3])
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


def _widest(plan: ShapePlan) -> BlockPlan:
    """Returns a block of the largest widths that any block of ``plan`` has."""
    return BlockPlan(*(max(int(getattr(block, name)) for block in plan.blocks) for name in _KINDS[1:]))


def _even(plan: ShapePlan, embed_dim: int, block: BlockPlan, depth: int) -> ShapePlan:
    return replace(plan, embed_dim=embed_dim, blocks=(block,) * depth)


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
