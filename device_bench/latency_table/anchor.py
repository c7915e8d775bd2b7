"""A latency table corrected by the time of one model like the one that is searched for.

A table is off by several per cent on a single model, which a budget of time cannot afford. Where the search will end is
known well enough before: one model of about those widths is timed, and the table is stretched so that it predicts that
model and the whole one as they were timed.
"""

from __future__ import annotations

from dataclasses import replace

from runtime import LatencyCheck, LatencyTable, ShapePlan, WidthGrid, latency_of

_APART = 0.02
"""A model nearer to the whole one than this share of the time tells no slope, and the table is scaled alone."""


def scaled(table: LatencyTable, whole_seconds: float) -> LatencyTable:
    """Returns the table with all times multiplied by one factor, so that the whole model takes ``whole_seconds``."""
    return _changed(table, whole_seconds * 1e9 / latency_of(table)(table.baseline), 0.0)


def anchored(table: LatencyTable, plan: ShapePlan, share: float) -> LatencyTable:
    """Returns the table changed so that it predicts the whole model as before, another one as it was timed.

    Where ``t`` is what the table predicted, it now predicts ``a + b * t``, with ``a`` and ``b`` by the two models. What
    is cheaper by the table stays cheaper.

    Args:
        table: the table.
        plan: a model that is smaller than the whole one.
        share: its time, as a share of the time of ``table.baseline`` in turns with it.
    """
    predict = latency_of(table)
    whole, own = predict(table.baseline), predict(plan)
    slope = whole * (1 - share) / (whole - own) if whole - own > _APART * whole else 0.0
    start = whole * (1 - slope)
    if slope <= 0:
        slope, start = whole * share / own, 0.0
    return _changed(table, slope, start)


def timed(table: LatencyTable, plan: ShapePlan, share: float) -> LatencyCheck:
    """Returns what a table predicts of a model, next to the share of the whole model's time that it took."""
    predict = latency_of(table)
    return LatencyCheck(plan, predict(plan), round(share * predict(table.baseline)))


def _changed(table: LatencyTable, slope: float, start_ns: float) -> LatencyTable:
    def stretched(grid: WidthGrid) -> WidthGrid:
        return replace(grid, ns=tuple(round(slope * value, 1) for value in grid.ns))

    ends, mlp, qk, v = table.factors
    return replace(
        table,
        first=stretched(table.first),
        further=stretched(table.further),
        mlp=stretched(table.mlp),
        qk=stretched(table.qk),
        v=stretched(table.v),
        factors=(round(slope * ends, 6), round(slope * mlp, 6), round(slope * qk, 6), round(slope * v, 6)),
        offset_ns=round(start_ns + slope * table.offset_ns),
    )
