from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.budget import smallest_plan
from compress.model.parts.axes import EMBED, Axis, parameter_axes
from compress.model.slicing import KeptBlock, KeptUnits, axis_indices, compose, keep_all, plan_of, slice_vit, widths_of
from compress.model.vit import SlicedViT
from runtime import PlanError, ShapePlan, decode, encode, macs, params
from tests.compress.masked import masked_logits
from tests.compress.strategies import ACTIONS, kepts
from tests.compress.tiny import ARCHITECTURES, TINY_PLAN, images_for, sliced_model, tiny_vit

FLOAT32, FLOAT64 = 1e-5, 1e-12  # the second leaves room for the order of sums alone


def logits(model: SlicedViT, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images)


def assert_equal_to_masked(model: SlicedViT, kept: KeptUnits) -> None:
    sliced, images = slice_vit(model, kept), images_for(model.plan)
    torch.testing.assert_close(logits(sliced, images), masked_logits(model, kept, images), rtol=FLOAT32, atol=FLOAT32)


def in_float64(model: SlicedViT) -> SlicedViT:
    copy = slice_vit(model, keep_all(model.plan))
    return copy.double()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("key", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_one_action_equals_the_masked_model(key: str, action: str, data: st.DataObject) -> None:
    model = sliced_model(key)
    assert_equal_to_masked(model, data.draw(kepts(model.plan, (action,))))


@pytest.mark.parametrize("key", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_mixture_equals_the_masked_model_in_both_precisions(key: str, data: st.DataObject) -> None:
    model = sliced_model(key)
    kept = data.draw(kepts(model.plan))
    assert_equal_to_masked(model, kept)
    images = images_for(model.plan).double()
    torch.testing.assert_close(
        logits(slice_vit(model, kept).double(), images),
        masked_logits(in_float64(model), kept, images),
        rtol=FLOAT64,
        atol=FLOAT64,
    )


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_the_smallest_model_equals_the_masked_model(key: str) -> None:
    model = sliced_model(key)
    eight = tuple(range(0, 24, 3))
    kept = KeptUnits(
        eight,
        tuple(KeptBlock((1,), ((0, 2, 4, 6, 8, 10, 12, 14),), (tuple(range(8)),), eight) for _ in model.plan.blocks),
    )
    assert plan_of(model.plan, kept) == smallest_plan(model.plan)
    assert_equal_to_masked(model, kept)


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_nothing_removed_leaves_the_model_as_it_is(key: str) -> None:
    model, images = sliced_model(key), images_for(sliced_model(key).plan)
    everything = keep_all(model.plan)
    same = slice_vit(model, everything)
    assert same.plan == model.plan == plan_of(model.plan, everything)
    assert torch.equal(logits(same, images), logits(model, images))
    torch.testing.assert_close(
        masked_logits(model, everything, images), logits(model, images), rtol=FLOAT32, atol=FLOAT32
    )


def test_zeros_left_in_the_residual_stream_are_another_model() -> None:
    """LayerNorm over the zeros of removed dimensions is what exact slicing must not equal."""
    model = sliced_model("vit")
    kept = replace(keep_all(model.plan), embed=tuple(range(24)))
    zeroed = slice_vit(model, keep_all(model.plan))
    axes, gone = parameter_axes(model.plan), torch.arange(24, 48)
    with torch.no_grad():
        for name, value in zeroed.named_parameters():
            for dim, axis in enumerate(axes[name]):
                if axis == EMBED:
                    value.index_fill_(dim, gone, 0.0)
    images = images_for(model.plan)
    assert (logits(zeroed, images) - logits(slice_vit(model, kept), images)).abs().max() > 0.01


@pytest.mark.parametrize("key", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_slicing_twice_is_slicing_once_by_the_composed_choice(key: str, data: st.DataObject) -> None:
    model = sliced_model(key)
    first = data.draw(kepts(model.plan))
    once = slice_vit(model, first)
    then = data.draw(kepts(once.plan))
    twice, direct = slice_vit(once, then), slice_vit(model, compose(first, then))
    assert twice.plan == direct.plan
    for (name, a), (other, b) in zip(twice.state_dict().items(), direct.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b), name


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_choice_and_its_plan_are_sound(data: st.DataObject) -> None:
    plan = sliced_model(data.draw(st.sampled_from(sorted(ARCHITECTURES)))).plan
    kept = data.draw(kepts(plan))
    small = plan_of(plan, kept)
    widths = [small.embed_dim, *(w for b in small.blocks for w in (b.qk_dim, b.v_dim, b.mlp_dim))]
    assert all(width >= 8 and width % 8 == 0 for width in widths)
    assert params(small) <= params(plan)
    assert macs(small) <= macs(plan)
    if small != plan:
        assert params(small) < params(plan)
        assert macs(small) < macs(plan)
    assert widths_of(plan, kept) == small
    assert decode(ShapePlan, json.loads(json.dumps(encode(small))), "plan") == small
    assert decode(KeptUnits, json.loads(json.dumps(encode(kept))), "kept") == kept
    assert compose(keep_all(plan), kept) == kept
    assert compose(kept, keep_all(small)) == kept


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_trailing_blocks_may_go(key: str) -> None:
    model, everything = sliced_model(key), keep_all(sliced_model(key).plan)
    short = replace(everything, blocks=everything.blocks[:1])
    sliced, weights = slice_vit(model, short), model.state_dict()
    assert sliced.plan == plan_of(model.plan, short) == replace(model.plan, blocks=model.plan.blocks[:1])
    assert all(torch.equal(value, weights[name]) for name, value in sliced.state_dict().items())
    assert torch.isfinite(logits(sliced, images_for(model.plan))).all()
    narrow = replace(keep_all(sliced.plan), embed=tuple(range(8)))
    once, twice = slice_vit(model, compose(short, narrow)), slice_vit(sliced, narrow)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_axis_positions_count_head_after_head() -> None:
    kept = KeptUnits(
        tuple(range(8, 16)),
        (
            KeptBlock((1,), ((0, 2, 4, 6, 8, 10, 12, 15),), (tuple(range(8)),), (0, *range(2, 17))),
            KeptBlock((0,), (tuple(range(8)),), (tuple(range(8, 16)),), tuple(range(16))),
        ),
    )
    index = {axis: positions.tolist() for axis, positions in axis_indices(TINY_PLAN, kept).items()}
    assert index[EMBED] == [8, 9, 10, 11, 12, 13, 14, 15]
    assert index[Axis("qk", 0)] == [16, 18, 20, 22, 24, 26, 28, 31]
    assert index[Axis("v", 0)] == [8, 9, 10, 11, 12, 13, 14, 15]
    assert index[Axis("mlp", 0)] == [0, *range(2, 17)]
    assert index[Axis("v", 1)] == [8, 9, 10, 11, 12, 13, 14, 15]


def test_slicing_leaves_the_original_alone_and_shares_nothing_with_it() -> None:
    model = tiny_vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = replace(keep_all(TINY_PLAN), embed=tuple(range(8)))
    small = slice_vit(model, kept)
    untouched = slice_vit(model, keep_all(TINY_PLAN))
    with torch.no_grad():
        for value in (*small.parameters(), *untouched.parameters()):
            value.fill_(7.0)
    assert model.plan == TINY_PLAN
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(value.requires_grad and value.is_leaf for value in small.parameters())
    assert not small.training


def with_block(**changes: Any) -> KeptUnits:
    everything = keep_all(TINY_PLAN)
    return replace(everything, blocks=(replace(everything.blocks[0], **changes), everything.blocks[1]))


@pytest.mark.parametrize(
    ("kept", "texts"),
    [
        (replace(keep_all(TINY_PLAN), blocks=()), ["of another model", "Expected 1 to 2 blocks.", "Got 0."]),
        (replace(keep_all(TINY_PLAN), embed=()), ["kept embed are out of range", "some of 0 to 15", "Got []."]),
        (replace(keep_all(TINY_PLAN), embed=(*range(7), 16)), ["kept embed are out of range", "some of 0 to 15"]),
        (replace(keep_all(TINY_PLAN), embed=(-1, *range(7))), ["kept embed are out of range", "Got [-1, 0,"]),
        (replace(keep_all(TINY_PLAN), embed=(0, 0, *range(1, 7))), ["kept embed must be sorted and distinct"]),
        (replace(keep_all(TINY_PLAN), embed=(1, 0, *range(2, 8))), ["kept embed must be sorted and distinct"]),
        (
            replace(keep_all(TINY_PLAN), embed=tuple(range(12))),
            ["embed_dim must be a positive multiple of 8", "Got 12."],
        ),
        (with_block(heads=()), ["heads of block 0 are out of range", "some of 0 to 1"]),
        (with_block(heads=(0, 2)), ["heads of block 0 are out of range"]),
        (with_block(mlp=(*range(15), 24)), ["MLP units of block 0 are out of range", "some of 0 to 23"]),
        (with_block(mlp=tuple(range(9))), ["mlp_dim must be a positive multiple of 8", "Got 9."]),
        (with_block(heads=(0,)), ["query-key dims of block 0 need one list per kept head", "Expected 1.", "Got 2."]),
        (with_block(qk=((0,) * 8, tuple(range(8)))), ["query-key dims of block 0 must be sorted and distinct"]),
        (with_block(qk=((), ())), ["query-key dims of block 0 are out of range"]),
        (
            with_block(qk=(tuple(range(8)), tuple(range(16)))),
            ["query-key dims of block 0 must be as many in every head", "Got [8, 16]."],
        ),
        (with_block(qk=(tuple(range(4)),) * 2), ["qk_dim must be a positive multiple of 8", "Got 4."]),
        (with_block(v=(tuple(range(8)),)), ["value dims of block 0 need one list per kept head"]),
        (with_block(v=(tuple(range(8)), (*range(7), 8))), ["value dims of block 0 are out of range", "0 to 7"]),
        (with_block(v=(tuple(range(7)),) * 2), ["v_dim must be a positive multiple of 8", "Got 7."]),
    ],
)
def test_a_wrong_choice_is_refused(kept: KeptUnits, texts: list[str]) -> None:
    for refuse in (lambda: plan_of(TINY_PLAN, kept), lambda: slice_vit(tiny_vit(), kept)):
        with pytest.raises(PlanError) as caught:
            refuse()
        assert all(text in str(caught.value) for text in texts), str(caught.value)
