"""Which files to time for a latency table.

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

from runtime import MULTIPLE, BlockPlan, LatencyPrecision, ShapePlan, params

Timed = tuple[ShapePlan, bool]
"""A file to time: its shape, and whether its last block computes what the head reads alone, as in files that ship."""

LayerWidths = tuple[int, ...]

_KINDS = ("embed_dim", "num_heads", "qk_dim", "v_dim", "mlp_dim")

LEAST = BlockPlan(1, MULTIPLE, MULTIPLE, MULTIPLE)

_WHOLES = 60
"""Whole models; the residual is fitted to two of three, and the table is checked on the third."""

_DEEP_BYTES = 8 * 2**20
"""Blocks for a part are so many that the weights of the widest ones take at least this, which no near cache holds."""

_NARROWEST, _AROUND = 64, 1.0
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

    embed: LayerWidths
    coarse: LayerWidths
    mlp: LayerWidths
    heads: LayerWidths
    qk: LayerWidths
    v: LayerWidths


def knots_of(plan: ShapePlan) -> Knots:
    """Returns the widths to measure for the architecture of ``plan``: all up to a number, then evenly fewer."""
    widest = widest_of(plan)
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
    least, deeper = (replace(plan, blocks=(widest_of(plan),) * depth) for depth in (1, 2))
    block_bytes = (params(deeper) - params(least)) * (1 if precision == "int8" else 4)
    return min(len(plan.blocks), max(2, -(-_DEEP_BYTES // block_bytes)))


def parts_to_time(plan: ShapePlan, precision: LatencyPrecision) -> tuple[Timed, ...]:
    """Returns the files of one block and of several whose times make the table for ``plan``, each once."""
    knots, depth = knots_of(plan), part_depth(plan, precision)
    least = [equal_blocks(plan, c, LEAST, 1) for c in (*knots.embed, *knots.coarse)]
    wide = [equal_blocks(plan, c, widest_of(plan), 1) for c in knots.coarse]
    plans = [*least, *wide]
    plans += [equal_blocks(plan, c, replace(LEAST, mlp_dim=m), depth) for c in knots.embed for m in knots.mlp]
    for c in knots.coarse:
        for heads in knots.heads:
            plans += [equal_blocks(plan, c, replace(LEAST, num_heads=heads, qk_dim=width), depth) for width in knots.qk]
            plans += [equal_blocks(plan, c, replace(LEAST, num_heads=heads, v_dim=width), depth) for width in knots.v]
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
            share = shares[name] * math.exp(rng.uniform(-_AROUND, _AROUND))
            return narrowed(own, 1 if name == "num_heads" else MULTIPLE, share)

        blocks = tuple(BlockPlan(*(width(block, name) for name in _KINDS[1:])) for block in plan.blocks)
        return replace(plan, embed_dim=narrowed(plan.embed_dim, MULTIPLE, shares.get("embed_dim", 1.0)), blocks=blocks)

    def drawn() -> ShapePlan:
        kinds = rng.sample(_KINDS, rng.randint(1, len(_KINDS)))
        return plan_of_shares({name: math.exp(rng.uniform(-math.log(_NARROWEST), 0)) for name in kinds})

    return tuple(drawn() for _ in range(count))


def widest_of(plan: ShapePlan) -> BlockPlan:
    """Returns a block of the largest widths that any block of ``plan`` has."""
    return BlockPlan(*(max(int(getattr(block, name)) for block in plan.blocks) for name in _KINDS[1:]))


def equal_blocks(plan: ShapePlan, embed_dim: int, block: BlockPlan, depth: int) -> ShapePlan:
    """Returns ``plan`` with other widths: ``depth`` times the same block."""
    return replace(plan, embed_dim=embed_dim, blocks=(block,) * depth)


def _spread(largest: int, step: int, count: int) -> LayerWidths:
    """Returns multiples of ``step`` up to ``largest``: all if they are no more than ``count``, else every n-th."""
    stride = step * -(-(largest // step) // count)
    return tuple(sorted({step, *range(largest, 0, -stride)}))
