from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import BlockPlan, ShapePlan, flops, macs, params

from .examples import tiny_plan
from .strategies import shape_plans


def test_a_small_model_by_hand() -> None:
    plan = tiny_plan(blocks=(BlockPlan(2, 8, 16, 24),))
    # 8x8 RGB in 4x4 patches: 4 patches of 48 numbers, and a class token. q, k: 2 x 8 = 16 wide; v: 2 x 16 = 32.
    embedding = 48 * 16 + 16 + 16 + 5 * 16  # weights, bias, class token, positions
    attention = (16 * 16 + 16) * 2 + (16 * 32 + 32) + (32 * 16 + 16)
    mlp = (16 * 24 + 24) + (24 * 16 + 16)
    norms = 3 * 2 * 16
    head = 16 * 3 + 3
    assert params(plan) == embedding + attention + mlp + norms + head

    patches = 4 * 48 * 16
    projections = 5 * 16 * (16 + 16 + 32) + 5 * 32 * 16
    products = 5 * 5 * 16 + 5 * 5 * 32
    mlp_macs = 2 * 5 * 16 * 24
    assert macs(plan) == patches + projections + products + mlp_macs + 16 * 3
    assert flops(plan) == 2 * macs(plan)


def test_each_option_costs_what_it_holds() -> None:
    plan = tiny_plan(blocks=(BlockPlan(2, 8, 16, 24),))
    for changes, difference in (
        ({"qkv_bias": False}, -(16 + 16 + 32)),
        ({"proj_bias": False}, -16),
        ({"patch_bias": False}, -16),
        ({"layer_scale": True}, 32),
        ({"norm_pre": True}, 32),
        ({"norm": "none"}, -32),
        ({"norm": "after_pool"}, 0),
        ({"pos_embed": "none"}, -80),
        ({"pos_embed": "patches"}, -16),
        ({"reg_tokens": 1}, 32),
        ({"class_token": False, "pooling": "avg"}, -32),
        ({"dist_token": True}, 32 + 51),
        ({"pooling": "token_and_avg"}, 51),
        ({"num_classes": 4}, 17),
    ):
        assert params(replace(plan, **changes)) - params(plan) == difference, changes


@settings(deadline=None)
@given(plan=shape_plans(), data=st.data())
def test_growing_a_width_never_costs_less(plan: ShapePlan, data: st.DataObject) -> None:
    plan = replace(plan, norm_eps=1e-6, norm_dim=0)
    index = data.draw(st.integers(0, len(plan.blocks) - 1))
    block = plan.blocks[index]
    grown = [replace(plan, embed_dim=plan.embed_dim + 8), replace(plan, blocks=(*plan.blocks, block))]
    grown.append(plan.with_block(index, replace(block, num_heads=block.num_heads + 1)))
    for width in ("qk_dim", "v_dim", "mlp_dim"):
        grown.append(plan.with_block(index, replace(block, **{width: getattr(block, width) + 8})))
    for larger in grown:
        assert params(larger) > params(plan)
        assert macs(larger) > macs(plan)
