"""A made-up machine: what a model takes on it, file by file, and its latency table."""

from __future__ import annotations

import math

from device_bench import Conditions, fit_table, parts_to_time, wholes_to_time
from runtime import BlockPlan, LatencyTable, ShapePlan

CONDITIONS = Conditions("cpu", "a made-up machine", "litert", "1.0", 1, "fp32")
TILE = 32


def linear_ns(inputs: int, outputs: int) -> float:
    """A staircase: outputs are computed a tile at a time."""
    return 0.4 * inputs * TILE * math.ceil(outputs / TILE)


def block_ns(c: int, block: BlockPlan) -> float:
    heads, qk, v = block.num_heads, block.qk_dim, block.v_dim
    attention = 2 * linear_ns(c, heads * qk) + linear_ns(c, heads * v) + linear_ns(heads * v, c)
    return attention + 30.0 * heads * (qk + v) + linear_ns(c, block.mlp_dim) + linear_ns(block.mlp_dim, c) + 40.0 * c


def model_ns(plan: ShapePlan) -> float:
    return 20_000.0 + 100.0 * plan.embed_dim + sum(block_ns(plan.embed_dim, block) for block in plan.blocks)


def stair_table(plan: ShapePlan) -> LatencyTable:
    return fit_table(plan, CONDITIONS, {p: model_ns(p) for p in (*parts_to_time(plan), *wholes_to_time(plan))})
