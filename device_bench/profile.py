"""What to time for a latency table, and the table from the times.

Every file timed is a whole model of one or two blocks, at its least widths but for one part: what that part adds
is the difference. A part's time is then taken in the place it has in a model, with the weights as cold and the
operators fused as they will be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
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

Floats = npt.NDArray[np.float64]
Widths = tuple[int, ...]

LEAST = BlockPlan(1, MULTIPLE, MULTIPLE, MULTIPLE)

_FIT, _CHECK = 10, 10
"""Whole models that the residual is fitted to, and further ones that the table is checked on."""


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

    def largest(name: str) -> int:
        return max(int(getattr(block, name)) for block in plan.blocks)

    return Knots(
        _spread(plan.embed_dim, MULTIPLE, 24),
        _spread(plan.embed_dim, MULTIPLE, 8),
        _spread(largest("mlp_dim"), MULTIPLE, 48),
        _spread(largest("num_heads"), 1, 6),
        _spread(largest("qk_dim"), MULTIPLE, 8),
        _spread(largest("v_dim"), MULTIPLE, 8),
    )


def parts_to_time(plan: ShapePlan) -> tuple[ShapePlan, ...]:
    """Returns the models of one and two blocks whose times make the table for ``plan``, each once."""
    knots = knots_of(plan)
    plans = [_one(plan, c, LEAST) for c in (*knots.embed, *knots.coarse)]
    plans += [replace(one, blocks=one.blocks * 2) for one in plans]
    plans += [_one(plan, c, replace(LEAST, mlp_dim=m)) for c in knots.embed for m in knots.mlp]
    for c in knots.coarse:
        for heads in knots.heads:
            plans += [_one(plan, c, replace(LEAST, num_heads=heads, qk_dim=width)) for width in knots.qk]
            plans += [_one(plan, c, replace(LEAST, num_heads=heads, v_dim=width)) for width in knots.v]
    return tuple(dict.fromkeys(plans))


def wholes_to_time(plan: ShapePlan, seed: int = 0) -> tuple[ShapePlan, ...]:
    """Returns the model itself and random smaller ones, to fit the residual to and to check the table on."""
    return plan, *random_plans(plan, _FIT + _CHECK - 1, seed)


def random_plans(plan: ShapePlan, count: int, seed: int) -> tuple[ShapePlan, ...]:
    """Returns plans of which every width is drawn between a quarter of that of ``plan`` and all of it."""
    rng = random.Random(seed)

    def draw(width: int, step: int) -> int:
        most = width // step
        return step * rng.randint(-(-most // 4), most)

    def block(widths: BlockPlan) -> BlockPlan:
        return BlockPlan(
            draw(widths.num_heads, 1),
            draw(widths.qk_dim, MULTIPLE),
            draw(widths.v_dim, MULTIPLE),
            draw(widths.mlp_dim, MULTIPLE),
        )

    return tuple(
        replace(plan, embed_dim=draw(plan.embed_dim, MULTIPLE), blocks=tuple(block(b) for b in plan.blocks))
        for _ in range(count)
    )


def fit_table(plan: ShapePlan, conditions: Conditions, times: Mapping[ShapePlan, float]) -> LatencyTable:
    """Makes the table for ``plan``.

    Args:
        plan: the architecture at its largest widths.
        conditions: under which the times were taken.
        times: of every plan of ``parts_to_time`` and ``wholes_to_time``, nanoseconds.

    Raises:
        MeasurementError: a time is missing.
    """
    knots = knots_of(plan)

    def time(c: int, block: BlockPlan = LEAST, depth: int = 1) -> float:
        one = replace(_one(plan, c, block), blocks=(block,) * depth)
        if one not in times:
            raise MeasurementError("A time is missing from the profile", got=f"embed_dim {c}, {block}")
        return times[one]

    # Noise must not make a narrower model the slower one: a search would turn on it.
    first = _ascending(np.array([time(c) for c in knots.embed]))
    both = np.array([time(c, depth=2) for c in knots.embed])
    further = _ascending(np.maximum(both - first, 0.0))
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
    mlp, qk, v = _ascending(mlp), _ascending(qk), _ascending(v)
    table = LatencyTable(
        **vars(conditions),
        baseline=plan,
        first=_grid((knots.embed,), first),
        further=_grid((knots.embed,), further),
        mlp=_grid((knots.embed, knots.mlp), _ascending(mlp - mlp[:, :1])),
        qk=_grid((knots.coarse, knots.heads, knots.qk), _ascending(qk - qk[:, :1, :1])),
        v=_grid((knots.coarse, knots.heads, knots.v), _ascending(v - v[:, :, :1])),
        scale=1.0,
        offset_ns=0,
        checks=(),
    )
    return _with_residual(table, times)


def _with_residual(table: LatencyTable, times: Mapping[ShapePlan, float]) -> LatencyTable:
    """Fits scale and offset to every second whole model, by least squares of the relative error; checks the rest."""
    wholes = wholes_to_time(table.baseline)
    fitted, checked = wholes[::2], wholes[1::2]
    raw = latency_of(table)
    sums = np.array([raw(plan) for plan in fitted], np.float64)
    measured = np.array([times[plan] for plan in fitted])
    columns = np.stack([sums / measured, 1 / measured], axis=1)
    scale, offset = np.linalg.lstsq(columns, np.ones(len(fitted)), rcond=None)[0]
    if scale <= 0:
        raise MeasurementError("The times of whole models do not grow with those of their parts", fix="Measure again")
    table = replace(table, scale=float(scale), offset_ns=round(offset))
    predict: Callable[[ShapePlan], int] = latency_of(table)
    return replace(table, checks=tuple(Check(plan, predict(plan), round(times[plan])) for plan in checked))


def _one(plan: ShapePlan, embed_dim: int, block: BlockPlan) -> ShapePlan:
    return replace(plan, embed_dim=embed_dim, blocks=(block,))


def _spread(largest: int, step: int, count: int) -> Widths:
    """Returns multiples of ``step`` up to ``largest``: all if they are no more than ``count``, else every n-th."""
    stride = step * -(-(largest // step) // count)
    return tuple(sorted({step, *range(largest, 0, -stride)}))


def _ascending(values: Floats) -> Floats:
    """Returns the values with no descent along any axis: midway between the nearest ones above and below."""
    for axis in range(values.ndim):
        above = np.maximum.accumulate(values, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(values, axis), axis=axis), axis)
        values = (above + below) / 2
    return values


def _grid(axes: Sequence[Widths], values: Floats) -> Grid:
    return Grid(tuple(axes), tuple(round(float(value), 1) for value in values.reshape(-1)))
