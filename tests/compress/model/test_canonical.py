"""The canonical form computes what the model computes, can be rotated, and is sliced as a model with zeros."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from compress.bases.turning import random_rotation
from compress.model.canonical import canonical, rotate_stream, stream_readers, stream_writers
from compress.model.parts.axes import parameter_axes, table_axes
from compress.model.slicing import KeptUnits, compose, keep_all, plan_of, same_widths, slice_vit
from compress.model.vit import SlicedViT, build
from runtime import macs, params
from tests.compress.kinds import KINDS, WITH_RMS, distance, in_float64, model_of_kind
from tests.compress.masked import masked_logits
from tests.compress.strategies import ACTIONS, kepts
from tests.compress.tiny import images_for

FLOAT32, FLOAT64 = 1e-5, 1e-10


@pytest.mark.parametrize("key", KINDS)
def test_it_computes_what_the_model_computes_in_both_precisions(key: str) -> None:
    model = model_of_kind(key)
    images = images_for(model.plan, 4)
    assert distance(canonical(model), model, images) <= FLOAT32
    whole = in_float64(model)
    plain = canonical(whole)
    assert {value.dtype for value in plain.parameters()} == {torch.float64}
    assert distance(plain, whole, images.double()) <= FLOAT64
    assert canonical(model, torch.float64).head.weight.dtype == torch.float64


@pytest.mark.parametrize("key", KINDS)
def test_norms_and_scales_have_no_weights_and_hidden_biases_are_zero(key: str) -> None:
    model = canonical(model_of_kind(key))
    plan, weights = model.plan, model.state_dict()
    assert not plan.layer_scale
    assert plan.norm_type == ("rms" if key in WITH_RMS else "layer")
    assert plan.pre_dim == (plan.embed_dim if key in WITH_RMS and plan.norm_pre else 0)
    assert not [name for name in weights if "gamma" in name]
    inner = [name for name in weights if "norm" in name and not name.startswith("attn_pool.")]
    assert bool(inner) == (key not in WITH_RMS)
    for i in range(len(plan.blocks)):
        for part in "kv":
            assert not plan.qkv_bias or not weights[f"blocks.{i}.attn.{part}.bias"].any()
        assert bool(weights[f"blocks.{i}.attn.proj.bias"].any()) == (key != "post-norm-token")


@pytest.mark.parametrize("key", WITH_RMS)
def test_the_stream_has_mean_zero(key: str) -> None:
    model = canonical(in_float64(model_of_kind(key)))
    with torch.no_grad():
        x = model.stream(images_for(model.plan).double())
        for block in model.blocks:
            assert float(x.mean(-1).abs().max()) <= 1e-12 * float(x.abs().max())
            x = block(x)


@pytest.mark.parametrize("key", KINDS)
def test_the_model_is_left_alone_and_a_second_time_changes_nothing(key: str) -> None:
    model = model_of_kind(key)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    once = canonical(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    twice = canonical(once)
    assert twice.plan == once.plan
    assert all(torch.equal(value, once.state_dict()[name]) for name, value in twice.state_dict().items())


@pytest.mark.parametrize("key", KINDS)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_cost_is_counted_exactly(key: str, data: st.DataObject) -> None:
    whole = canonical(model_of_kind(key))
    assert {name: len(axes) for name, axes in (parameter_axes(whole.plan) | table_axes(whole.plan)).items()} == {
        name: value.ndim for name, value in whole.state_dict().items()
    }
    for model in (whole, slice_vit(whole, data.draw(kepts(whole.plan)))):
        assert params(model.plan) == sum(value.numel() for value in model.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images_for(model.plan, 1))
        assert 2 * macs(model.plan) == counter.get_total_flops()


def rotated(model: SlicedViT, seed: int = 0) -> SlicedViT:
    basis = random_rotation(model.plan.embed_dim, torch.Generator().manual_seed(seed))
    weights = {name: value.double() for name, value in model.state_dict().items()}
    return build(model.plan, rotate_stream(model.plan, weights, basis), model.head.weight.dtype)


@pytest.mark.parametrize("key", WITH_RMS)
def test_other_coordinates_of_the_stream_are_the_same_function(key: str) -> None:
    model = model_of_kind(key)
    images = images_for(model.plan, 4)
    assert distance(rotated(canonical(model)), model, images) <= FLOAT32
    whole = in_float64(model)
    other = rotated(canonical(whole))
    assert distance(other, whole, images.double()) <= FLOAT64
    for name in (*stream_writers(other.plan), *stream_readers(other.plan)):
        assert not torch.allclose(other.state_dict()[name], canonical(whole).state_dict()[name]), name


@pytest.mark.parametrize("key", WITH_RMS)
def test_what_writes_and_reads_the_stream_is_all_that_runs_along_it(key: str) -> None:
    plan = canonical(model_of_kind(key)).plan
    along = {name: axes.index(("embed", -1)) for name, axes in parameter_axes(plan).items() if ("embed", -1) in axes}
    readers = dict.fromkeys(stream_readers(plan), 1)
    writers = {name: axis if axis >= 0 else 2 for name, axis in stream_writers(plan).items()}
    assert along == readers | writers
    assert not readers.keys() & writers.keys()


def assert_equal_to_masked(model: SlicedViT, kept: KeptUnits) -> None:
    images = images_for(model.plan)
    with torch.no_grad():
        got = slice_vit(model, kept)(images)
    torch.testing.assert_close(got, masked_logits(model, kept, images), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        exact = slice_vit(in_float64(model), kept)(images.double())
    wanted = masked_logits(in_float64(model), kept, images.double())
    torch.testing.assert_close(exact, wanted, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("key", KINDS)
@given(data=st.data())
@settings(max_examples=2, deadline=None)
def test_one_action_equals_the_masked_model(key: str, action: str, data: st.DataObject) -> None:
    model = canonical(model_of_kind(key))
    assert_equal_to_masked(model, data.draw(kepts(model.plan, (action,))))


@pytest.mark.parametrize("key", KINDS)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_a_mixture_equals_the_masked_model_and_two_cuts_are_one(key: str, data: st.DataObject) -> None:
    model = canonical(model_of_kind(key))
    first = data.draw(kepts(model.plan))
    assert_equal_to_masked(model, first)
    once = slice_vit(model, first)
    assert once.plan == plan_of(model.plan, first)
    then = data.draw(kepts(once.plan))
    # the divisor of an RMSNorm is the whole stream's, also after the second cut
    assert_equal_to_masked(once, then)
    twice, direct = slice_vit(once, then), slice_vit(model, compose(first, then))
    assert twice.plan == direct.plan
    assert all(torch.equal(value, direct.state_dict()[name]) for name, value in twice.state_dict().items())


@pytest.mark.parametrize("key", WITH_RMS)
def test_a_cut_stream_equals_zeros_in_the_whole_one(key: str) -> None:
    whole = canonical(in_float64(model_of_kind(key)))
    c = whole.plan.embed_dim
    small = slice_vit(whole, replace(keep_all(whole.plan), embed=tuple(range(c - 8))))
    assert (small.plan.embed_dim, small.plan.norm_dim) == (c - 8, c)
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    for name, axis in stream_writers(whole.plan).items():
        weights[name].movedim(axis, 0)[c - 8 :] = 0.0
    zeroed = build(whole.plan, weights, torch.float64)
    assert distance(small, zeroed, images_for(whole.plan).double()) <= FLOAT64


def test_blocks_that_go_take_the_epsilons_of_their_norms() -> None:
    model = canonical(model_of_kind("clip"))
    values = tuple(1e-5 * (1 + place) for place in range(len(model.plan.norm_names)))
    uneven = build(replace(model.plan, norm_eps=values), model.state_dict())
    short = slice_vit(uneven, replace(keep_all(uneven.plan), blocks=keep_all(uneven.plan).blocks[:1]))
    assert short.plan.norm_names == ("norm_pre", "blocks.0.norm1", "blocks.0.norm2", "norm")
    assert short.plan.norm_eps == (*values[:3], values[-1])
    norms = [short.norm_pre, short.blocks[0].norm1, short.blocks[0].norm2, short.norm]
    assert [norm.eps for norm in norms] == list(short.plan.norm_eps)


def test_widths_are_compared_without_what_norms_add_and_divide_by() -> None:
    plan = canonical(model_of_kind("vit")).plan
    assert same_widths(plan, replace(plan, norm_eps=(0.5,) * 5, norm_dim=64))
    assert not same_widths(plan, replace(plan, embed_dim=plan.embed_dim - 8))
    assert not same_widths(plan, replace(plan, norm_type="layer"))
