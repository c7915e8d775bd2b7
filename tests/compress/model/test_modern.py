"""Rotary positions, gated MLPs, RMSNorms, and norms of queries, keys, heads, hidden units and patches."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from compress.budget import smallest_plan
from compress.importance.units import group_importance
from compress.model.load import check_model, load_model
from compress.model.parts.axes import EMBED, Axis, parameter_axes, table_axes
from compress.model.slicing import keep_all, plan_of, slice_vit
from compress.model.timm_vit import from_timm
from compress.model.vit import SlicedViT, build
from compress.search.tas.units import order_of, ordered
from compress.search.uniform import most_important
from runtime import ModelError, PlanError, ShapePlan, macs, params
from tests.compress.masked import masked_logits
from tests.compress.strategies import ACTIONS, kepts
from tests.compress.tiny import MODERN, images_for, sliced_model, timm_model


def logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(images)
    return out


@pytest.mark.parametrize("key", MODERN)
def test_outputs_are_those_of_timm(key: str) -> None:
    theirs = timm_model(MODERN[key])
    ours = from_timm(theirs)
    images = images_for(ours.plan, 3)
    wanted = logits(theirs, images)
    assert float((logits(ours, images) - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert check_model(MODERN[key], 5) == ours.plan


@pytest.mark.parametrize("key", MODERN)
def test_a_whole_model_of_our_own_is_loaded_as_it_is(key: str, tmp_path: Path) -> None:
    ours = from_timm(timm_model(MODERN[key]))
    path = tmp_path / "own.safetensors"
    save_file(dict(ours.state_dict()), path)
    loaded = load_model(replace(MODERN[key], checkpoint=path), 5)
    images = images_for(ours.plan)
    assert loaded.plan == ours.plan
    assert torch.equal(logits(loaded, images), logits(ours, images))
    with pytest.raises(ModelError, match=r"another number of classes.*Expected 4\. Got 5"):
        load_model(replace(MODERN[key], checkpoint=path), 4)


@pytest.mark.parametrize("changes", [{"reset_head": True}, {"img_size": 48}])
def test_rotary_positions_of_our_own_models_are_never_left_out(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(dict(from_timm(timm_model(MODERN["dinov3"])).state_dict()), path)
    with pytest.raises(ModelError, match="their rotary positions are tables of one image size"):
        load_model(replace(MODERN["dinov3"], checkpoint=path, **changes), 5)


def test_a_model_in_training_has_the_tables_of_one_that_answers() -> None:
    theirs = timm_model(
        replace(MODERN["sapiens2"], overrides={**MODERN["sapiens2"].overrides, "rope_shift_coords": 0.5})
    )
    images = images_for(from_timm(theirs).plan)
    wanted = logits(theirs, images)
    torch.testing.assert_close(logits(from_timm(theirs.train()), images), wanted, rtol=1e-5, atol=1e-5)
    assert theirs.rope.training


def test_the_plan_says_which_parts_there_are() -> None:
    def options(key: str) -> set[str]:
        plan, plain = sliced_model(key).plan, sliced_model("vit").plan
        names = ("gated_mlp", "mlp_norm", "attn_norm", "qk_norm", "patch_norm", "rope", "norm_type", "norm_pre")
        return {f"{name}={getattr(plan, name)}" for name in names if getattr(plan, name) != getattr(plain, name)}

    assert options("eva02") == {"gated_mlp=True", "rope=shared"}
    assert options("eva02-clip") == {"gated_mlp=True", "rope=shared", "attn_norm=True", "mlp_norm=True"}
    assert options("dinov3") == {"rope=shared"}
    assert options("perception") == {"rope=shared", "norm_pre=True"}
    assert options("rope-mixed") == {"rope=per_head"}
    assert options("sapiens2") == {"gated_mlp=True", "rope=shared", "qk_norm=rms", "norm_type=rms"}
    assert options("dinov2-giant") == {"gated_mlp=True"}
    assert options("aimv2") == {"gated_mlp=True", "patch_norm=True", "norm_type=rms"}
    assert options("beit3") == {"attn_norm=True", "mlp_norm=True"}
    assert options("qk-norm") == {"qk_norm=layer"}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("key", MODERN)
@given(data=st.data())
@settings(max_examples=2, deadline=None)
def test_one_action_equals_the_masked_model(key: str, action: str, data: st.DataObject) -> None:
    check_masked(sliced_model(key), data, (action,))


@pytest.mark.parametrize("key", MODERN)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_mixtures_equal_the_masked_model_once_and_twice(key: str, data: st.DataObject) -> None:
    model = sliced_model(key)
    once = check_masked(model, data, ACTIONS)
    check_masked(once, data, ACTIONS)


def check_masked(model: SlicedViT, data: st.DataObject, actions: tuple[str, ...]) -> SlicedViT:
    kept = data.draw(kepts(model.plan, actions))
    sliced, images = slice_vit(model, kept), images_for(model.plan)
    torch.testing.assert_close(logits(sliced, images), masked_logits(model, kept, images), rtol=1e-5, atol=1e-5)
    return sliced


@pytest.mark.parametrize("key", MODERN)
def test_cost_and_axes_are_exact(key: str) -> None:
    model = sliced_model(key)
    smallest = smallest_plan(model.plan)
    kept = most_important(
        model.plan,
        importance(model),
        replace(
            smallest,
            blocks=tuple(
                replace(block, num_heads=whole.num_heads)
                for block, whole in zip(smallest.blocks, model.plan.blocks, strict=True)
            ),
        ),
    )
    for own in (model, slice_vit(model, kept)):
        assert params(own.plan) == sum(p.numel() for p in own.parameters())
        with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
            logits(own, images_for(own.plan, 1))
        assert 2 * macs(own.plan) == counter.get_total_flops()
        check_axes(own)


def check_axes(model: SlicedViT) -> None:
    plan, shapes = model.plan, {name: tuple(value.shape) for name, value in model.state_dict().items()}
    axes = parameter_axes(plan) | table_axes(plan)
    assert axes.keys() == shapes.keys()
    widths = {EMBED: plan.embed_dim}
    for i, block in enumerate(plan.blocks):
        heads = block.num_heads
        widths |= {
            Axis("qk", i): heads * block.qk_dim,
            Axis("v", i): heads * block.v_dim,
            Axis("mlp", i): block.mlp_dim,
        }
        widths[Axis("pair", i)] = plan.rope_pairs(block)
    for name, along in axes.items():
        assert all(axis is None or widths[axis] == size for axis, size in zip(along, shapes[name], strict=True)), name


def importance(model: SlicedViT):  # type: ignore[no-untyped-def]
    return group_importance(model.plan, {name: value.detach().square() for name, value in model.named_parameters()})


@pytest.mark.parametrize("key", ["eva02", "dinov3", "rope-mixed"])
def test_importance_keeps_rotated_pairs_together(key: str) -> None:
    model = sliced_model(key)
    for block in importance(model).blocks:
        assert np.array_equal(block.qk[:, 0::2], block.qk[:, 1::2])
        assert (len(np.unique(block.qk, axis=0)) == 1) == (model.plan.rope == "shared")
    blocks = tuple(replace(block, qk_dim=8) for block in model.plan.blocks)
    kept = most_important(model.plan, importance(model), replace(model.plan, blocks=blocks))
    assert plan_of(model.plan, kept).blocks == blocks


def test_a_split_pair_and_unlike_heads_are_refused() -> None:
    plan = sliced_model("eva02").plan
    kept = keep_all(plan)
    first = kept.blocks[0]

    def with_qk(*qk: tuple[int, ...]) -> ShapePlan:
        return plan_of(plan, replace(kept, blocks=(replace(first, qk=qk), *kept.blocks[1:])))

    with pytest.raises(PlanError, match="split a pair"):
        with_qk((0, 2, 4, 5, 6, 7, 8, 9), (0, 2, 4, 5, 6, 7, 8, 9))
    with pytest.raises(PlanError, match="share a rotary table"):
        with_qk(tuple(range(8)), tuple(range(8, 16)))


def test_a_table_without_rotations_is_refused() -> None:
    model = sliced_model("eva02")
    weights = model.state_dict() | {
        "blocks.1.attn.rope.cos": torch.zeros_like(model.state_dict()["blocks.1.attn.rope.cos"])
    }
    with pytest.raises(PlanError, match="The rotary table of block 1 holds no rotations"):
        build(model.plan, weights)


@pytest.mark.parametrize("key", ["eva02", "eva02-clip", "dinov3", "sapiens2", "aimv2", "rope-mixed"])
def test_a_checkpoint_of_timm_is_taken(key: str, tmp_path: Path) -> None:
    theirs, path = timm_model(MODERN[key]), tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, path)
    ours = load_model(replace(MODERN[key], checkpoint=str(path)), 5)
    images = images_for(ours.plan)
    torch.testing.assert_close(logits(ours, images), logits(theirs, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", ["eva02-clip", "rope-mixed", "sapiens2"])
def test_a_supernet_holds_the_model_in_the_order_of_its_units(key: str) -> None:
    model = sliced_model(key)
    images = images_for(model.plan)
    sorted_units = ordered(model, order_of(importance(model)))
    torch.testing.assert_close(logits(sorted_units, images), logits(model, images), rtol=1e-5, atol=1e-5)
