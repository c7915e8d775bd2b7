"""Random shape plans that are valid, for Hypothesis."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st

from runtime.plan import Activation, BlockPlan, NormPlace, Pooling, PosEmbed, ShapePlan
from runtime.plan_parts import PoolPlan

widths = st.integers(1, 64).map(lambda units: 8 * units)
block_plans = st.builds(BlockPlan, num_heads=st.integers(1, 8), qk_dim=widths, v_dim=widths, mlp_dim=widths)


@st.composite
def shape_plans(draw: st.DrawFn) -> ShapePlan:
    """Draws a plan of any valid combination of options."""
    patch = (draw(st.integers(1, 16)), draw(st.integers(1, 16)))
    class_token = draw(st.booleans())
    poolings = [own for own in get_args(Pooling) if own != "map"]
    pooling = draw(st.sampled_from(poolings if class_token else ("avg", "avg_all")))
    plan = ShapePlan(
        img_size=(patch[0] * draw(st.integers(1, 8)), patch[1] * draw(st.integers(1, 8))),
        patch_size=patch,
        in_chans=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 50)),
        embed_dim=draw(widths),
        blocks=tuple(draw(st.lists(block_plans, min_size=1, max_size=4))),
        attn_scale=draw(st.floats(1e-6, 1e6)),
        class_token=class_token,
        dist_token=pooling == "token" and draw(st.booleans()),
        reg_tokens=draw(st.integers(0, 4)),
        pos_embed=draw(st.sampled_from(get_args(PosEmbed))),
        pooling=pooling,
        norm_pre=draw(st.booleans()),
        norm="before_pool" if pooling == "token_and_avg" else draw(st.sampled_from(get_args(NormPlace))),
        norm_eps=draw(st.floats(1e-12, 1.0)),
        act=draw(st.sampled_from(get_args(Activation))),
        qkv_bias=draw(st.booleans()),
        proj_bias=draw(st.booleans()),
        patch_bias=draw(st.booleans()),
        layer_scale=draw(st.booleans()),
        position_bias=draw(st.booleans()),
        block_kind=draw(st.sampled_from(("pre", "parallel"))),
    )
    if not plan.dist_token and plan.norm != "after_pool" and draw(st.booleans()):
        sizes = [draw(st.integers(1, 40)) for _ in range(3)]
        pool = PoolPlan(sizes[0], sizes[1], sizes[2], draw(st.floats(1e-12, 1.0)), draw(st.booleans()))
        plan = replace(plan, pooling="map", attn_pool=pool)
    if not plan.layer_scale and draw(st.booleans()):
        return replace(plan, block_kind="post")
    if draw(st.booleans()):
        pre = draw(widths) if plan.norm_pre else 0
        plan = replace(plan, norm_type="rms", pre_dim=pre, norm_dim=draw(st.sampled_from((0, plan.embed_dim + 8))))
    if draw(st.booleans()):
        eps = draw(st.lists(st.floats(1e-12, 1.0), min_size=len(plan.norm_names), max_size=len(plan.norm_names)))
        plan = replace(plan, norm_eps=tuple(eps))
    return plan
