"""Random choices of what to keep of a model, for Hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from compress.model.slicing import KeptBlock, KeptUnits
from runtime import ShapePlan

ACTIONS = ("mlp", "qk", "v", "head", "embed")


@st.composite
def kepts(draw: st.DrawFn, plan: ShapePlan, actions: tuple[str, ...] = ACTIONS) -> KeptUnits:
    """Draws what stays when only units of the kinds in ``actions`` may go; each of those that can shrink may."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def width(kind: str, size: int) -> int:
        return 8 * draw(st.integers(1, size // 8)) if kind in actions else size

    def some(size: int, count: int) -> tuple[int, ...]:
        return tuple(sorted(generator.choice(size, count, replace=False).tolist()))

    def pairs(size: int, count: int) -> tuple[int, ...]:
        return tuple(2 * pair + place for pair in some(size // 2, count // 2) for place in (0, 1))

    blocks = []
    for block in plan.blocks:
        heads = draw(st.integers(1, block.num_heads)) if "head" in actions else block.num_heads
        qk, v = width("qk", block.qk_dim), width("v", block.v_dim)
        looked = tuple((some if plan.rope == "none" else pairs)(block.qk_dim, qk) for _ in range(heads))
        blocks.append(
            KeptBlock(
                some(block.num_heads, heads),
                looked if plan.rope != "shared" else looked[:1] * heads,
                tuple(some(block.v_dim, v) for _ in range(heads)),
                some(block.mlp_dim, width("mlp", block.mlp_dim)),
            )
        )
    return KeptUnits(some(plan.embed_dim, width("embed", plan.embed_dim)), tuple(blocks))
