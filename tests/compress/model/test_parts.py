"""Parts that a plain Vision Transformer lacks: exact against timm, and what slicing leaves equals the masked model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from compress.distill.outputs import outputs_of
from compress.importance.base import ImportanceInputs
from compress.importance.scores import l2
from compress.model.load import ModelSpec, check_model, load_model
from compress.model.parts.axes import parameter_axes, table_axes
from compress.model.slicing import slice_vit
from compress.model.timm_vit import from_timm, to_timm
from runtime import ModelError, PlanError, PoolPlan, StemOp, decode, encode, macs, params
from tests.compress.masked import masked_logits
from tests.compress.parts import NO_WAY_BACK, PARTS, model_with, timm_model_with
from tests.compress.strategies import ACTIONS, kepts
from tests.compress.tiny import TINY_PLAN, images_for

_OTHER_FORM = ("any-shape", "parallel", "branches", "stem", "standardised", "double")
"""Beginnings of the parts whose weights have no place in timm's model."""


def outputs(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(images)
    return out


@pytest.mark.parametrize("part", PARTS)
def test_the_outputs_are_those_of_timm(part: str) -> None:
    theirs = timm_model_with(part)
    ours, images = from_timm(theirs), images_for(model_with(part).plan, 3)
    wanted = outputs(theirs, images)
    assert float((outputs(ours, images) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert params(ours.plan) == sum(value.numel() for value in ours.parameters())
    assert decode(type(ours.plan), encode(ours.plan), "plan") == ours.plan


@pytest.mark.parametrize("part", PARTS)
def test_our_weights_compute_the_same_in_timm(part: str) -> None:
    theirs = timm_model_with(part)
    images = images_for(model_with(part).plan, 2)
    wanted = outputs(theirs, images)
    if part in NO_WAY_BACK or part.startswith((*_OTHER_FORM, "rotary")):
        with pytest.raises(ModelError, match="no place in"):
            to_timm(model_with(part).state_dict(), theirs.state_dict())
        return
    other = timm_model_with(part, seed=1)
    assert not torch.allclose(outputs(other, images), wanted)
    back = to_timm(model_with(part).state_dict(), other.state_dict())
    assert back.keys() == other.state_dict().keys()
    other.load_state_dict(back)
    torch.testing.assert_close(outputs(other, images), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("part", PARTS)
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_one_action_equals_the_masked_model(part: str, action: str, data: st.DataObject) -> None:
    model = model_with(part)
    kept, images = data.draw(kepts(model.plan, (action,))), images_for(model.plan)
    sliced = slice_vit(model, kept)
    assert sliced.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(outputs(sliced, images), masked_logits(model, kept, images), rtol=1e-5, atol=1e-5)
    assert macs(sliced.plan) <= macs(model.plan)


@pytest.mark.parametrize("part", PARTS)
def test_every_weight_has_its_axes_and_units_have_importance(part: str) -> None:
    model = model_with(part)
    axes = parameter_axes(model.plan) | table_axes(model.plan)
    assert axes.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert len(axes[name]) == value.ndim, name
    found = l2(ImportanceInputs(model, ()))
    assert all((values > 0).all() for values in found.parts())


def test_the_image_size_of_a_model_for_any_shape_is_given_or_published() -> None:
    spec = ModelSpec("naflexvit_base_patch16_gap", overrides={"depth": 1})
    assert check_model(spec).img_size == (384, 384)
    assert check_model(replace(spec, img_size=(64, 32))).img_size == (64, 32)
    assert load_model(replace(spec, img_size=32), 3).pos_embed.shape[1] == 4


@pytest.mark.parametrize("part", ["stem", "stem-of-patches", "attention-pool"])
def test_hidden_states_are_maps_of_the_patches(part: str) -> None:
    model = model_with(part)
    rows, columns = (size // own for size, own in zip(model.plan.map_size, model.plan.patch_size, strict=True))
    with torch.no_grad():
        found = outputs_of(model, images_for(model.plan, 2), blocks=(0,), embedding=True)
    assert found.features[0].shape == (2, model.plan.embed_dim, rows, columns)
    assert found.embedding is not None
    assert found.embedding.shape == (2, model.plan.head_dim)


def test_a_stem_whose_operators_do_not_fit_is_refused() -> None:
    conv = StemOp("conv", (-1,), 8, (3, 3), (2, 2))
    for ops, text in (
        ((StemOp("relu", (1,), 1),), "reads what comes after it"),
        ((conv, StemOp("add", (0, -1), 8)), "do not fit together"),
        ((conv, StemOp("relu", (0,), 16)), "do not fit together"),
        ((StemOp("conv", (-1,), 8, (9, 9)),), "too small for the stem"),
    ):
        with pytest.raises(PlanError, match=text):
            replace(TINY_PLAN, stem=ops)
    for broken, text in (
        ({"kind": "tanh"}, "Unknown operator"),
        ({"sources": (0, 0)}, "another number of maps"),
        ({"kernel": (0, 1)}, "must be positive"),
        ({"padding": (0, 0, -1, 0)}, "must be positive"),
        ({"kind": "group_norm", "groups": 3}, "equal groups"),
        ({"eps": 0.0}, "positive epsilon"),
        ({"groups": 2}, "one group, or one for each channel"),
        ({"kind": "mean_pool", "padding": (0, 1, 0, 1)}, "equal padding on both sides"),
    ):
        with pytest.raises(PlanError, match=text):
            replace(conv, **broken)


def test_a_pooling_needs_its_widths_and_has_its_own_norm() -> None:
    pool = PoolPlan(2, 8, 16, 1e-6)
    for changes in (
        {"pooling": "map"},
        {"attn_pool": pool},
        {"pooling": "map", "attn_pool": pool, "norm": "after_pool"},
    ):
        with pytest.raises(PlanError, match="Pooling by attention"):
            TINY_PLAN.__class__(**{**vars(TINY_PLAN), **changes})
    for broken in ((0, 8, 16, 1e-6), (2, 0, 16, 1e-6), (2, 8, 0, 1e-6), (2, 8, 16, 0.0), (2, 8, 16, float("nan"))):
        with pytest.raises(PlanError, match="attention pooling must be"):
            PoolPlan(*broken)


def test_a_plan_without_new_parts_is_written_as_before() -> None:
    assert not {"attn_pool", "position_bias"} & encode(TINY_PLAN).keys()


def test_a_bias_that_is_not_relative_has_no_place_in_timm() -> None:
    theirs, weights = timm_model_with("beit"), dict(model_with("beit").state_dict())
    name = "blocks.1.attn.position_bias"
    weights[name] = weights[name].clone()
    weights[name][0, 3, 4] += 1
    with pytest.raises(ModelError, match="not the same for all pairs"):
        to_timm(weights, theirs.state_dict())


@pytest.mark.parametrize("part", PARTS)
def test_a_whole_model_of_our_own_is_loaded_as_it_is(part: str, tmp_path: Path) -> None:
    ours = model_with(part)
    save_file(dict(ours.state_dict()), tmp_path / "own.safetensors")
    loaded = load_model(replace(PARTS[part], checkpoint=tmp_path / "own.safetensors"), ours.plan.num_classes)
    images = images_for(ours.plan)
    assert loaded.plan == ours.plan
    assert torch.equal(outputs(loaded, images), outputs(ours, images))


@pytest.mark.parametrize("part", ["beit", "attention-pool", "position-table", "post-norm", "branches-side-by-side"])
def test_a_checkpoint_of_timm_is_loaded(part: str, tmp_path: Path) -> None:
    theirs = timm_model_with(part, seed=3)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    spec = replace(PARTS[part], checkpoint=tmp_path / "weights.safetensors")
    ours = load_model(spec, 5)
    images = images_for(ours.plan, 2)
    torch.testing.assert_close(outputs(ours, images), outputs(theirs, images), rtol=1e-5, atol=1e-5)
