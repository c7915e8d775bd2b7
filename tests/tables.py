"""A made-up machine: what a model takes on it, file by file, and its latency table."""

from __future__ import annotations

import math

from device_bench.latency_table.files import Timed, parts_to_time, wholes_to_time
from device_bench.latency_table.fit import Conditions, fit_table
from runtime import BlockPlan, LatencyTable, ShapePlan

CONDITIONS = Conditions("cpu", "a made-up machine", "litert", "1.0", 1, "fp32")
TILE = 32
LAST = 0.3
"""Of what a block takes, what the last one takes where it computes what the head reads alone."""


def linear_ns(inputs: int, outputs: int) -> float:
    """A staircase: outputs are computed a tile at a time."""
    return 0.4 * inputs * TILE * math.ceil(outputs / TILE)


def block_ns(c: int, block: BlockPlan) -> float:
    heads, qk, v = block.num_heads, block.qk_dim, block.v_dim
    attention = 2 * linear_ns(c, heads * qk) + linear_ns(c, heads * v) + linear_ns(heads * v, c)
    return attention + 30.0 * heads * (qk + v) + linear_ns(c, block.mlp_dim) + linear_ns(block.mlp_dim, c) + 40.0 * c


def model_ns(plan: ShapePlan, pooled_only: bool = True, last: float = LAST) -> float:
    *others, final = (block_ns(plan.embed_dim, block) for block in plan.blocks)
    return 20_000.0 + 100.0 * plan.embed_dim + sum(others) + (last if pooled_only else 1.0) * final


def stair_times(plan: ShapePlan, last: float = LAST) -> dict[Timed, float]:
    return {file: model_ns(*file, last) for file in (*parts_to_time(plan, CONDITIONS.precision), *wholes_to_time(plan))}


def stair_table(plan: ShapePlan, last: float = LAST) -> LatencyTable:
    return fit_table(plan, CONDITIONS, stair_times(plan, last))
