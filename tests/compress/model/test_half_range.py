"""A scale of the stream brings the norms of every kind of model into float16's range and changes no output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress.model.canonical import canonical
from compress.model.half_range import HALF_MOST, MARGIN, in_half_range, largest_energies, scale_for, scaled_stream
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT, build
from tests.compress.kinds import KINDS, WITH_RMS, distance, model_of_kind
from tests.compress.tiny import images_for, tiny_vit

FORMS = {"as it is": lambda model: model, "canonical": canonical}
EMBEDDING = ("patch_embed.", "cls_token", "dist_token", "reg_token", "pos_embed")


def loud(model: SlicedViT, factor: float) -> SlicedViT:
    """Returns a model with a stream that is ``factor`` times as large, which its LayerNorms and RMSNorms hardly see."""
    writers = (".attn.proj.", ".mlp.fc2.", "norm_pre.", "pre.", *EMBEDDING)
    w = {name: v * (factor if any(part in f".{name}" for part in writers) else 1) for name, v in _named(model)}
    return build(model.plan, w)


def _named(model: SlicedViT) -> list[tuple[str, torch.Tensor]]:
    return list(model.state_dict().items())


def outputs(model: SlicedViT, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(images)
    return logits


@pytest.mark.parametrize("factor", [250.0, 1700.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", [key for key in KINDS if not key.startswith("post-norm")])
def test_outputs_stay_equal_bit_for_bit_and_squares_fit(key: str, form: str, factor: float) -> None:
    model = loud(FORMS[form](model_of_kind(key)), factor)
    images = images_for(model.plan, 6)
    before = largest_energies(model, images)
    assert max(before.values()) > 3e5
    scaled = in_half_range(model, images)
    assert torch.equal(outputs(scaled, images), outputs(model, images))
    after = {name: own for name, own in largest_energies(scaled, images).items() if not name.endswith(".norm3")}
    pre = [after.pop("norm_pre")] if "norm_pre" in after else []
    for own in [max(after.values()), *pre]:
        # the largest power of two: twice as much would not fit
        assert HALF_MOST / 4 < MARGIN * own <= HALF_MOST
    assert replace(scaled.plan, norm_eps=model.plan.norm_eps) == model.plan
    assert all(own < model.plan.eps_of(name) for name in after for own in [scaled.plan.eps_of(name)])


@pytest.mark.parametrize("key", ["post-norm", "post-norm-token"])
def test_norms_behind_branches_are_scaled_one_by_one(key: str) -> None:
    model = loud(model_of_kind(key), 1700.0)
    images = images_for(model.plan, 6)
    scaled = in_half_range(model, images)
    assert scaled is not model
    assert torch.equal(outputs(scaled, images), outputs(model, images))
    before, after = largest_energies(model, images), largest_energies(scaled, images)
    inner = [name for name in after if name.startswith("blocks.")]
    assert any(MARGIN * before[name] > HALF_MOST for name in inner)
    assert all(MARGIN * after[name] <= HALF_MOST for name in inner)


@pytest.mark.parametrize("key", KINDS)
def test_a_model_that_needs_no_scale_is_returned_as_it_is(key: str) -> None:
    model = model_of_kind(key)
    assert in_half_range(model, images_for(model.plan, 4)) is model


@pytest.mark.parametrize("key", WITH_RMS)
def test_a_cut_stream_keeps_its_features_too(key: str) -> None:
    whole = loud(canonical(model_of_kind(key)), 500.0)
    model = slice_vit(whole, KeptUnits(tuple(range(8)), keep_all(whole.plan).blocks))
    values = tuple(1e3 * (1 + place) for place in range(len(model.plan.norm_names)))
    model = build(replace(model.plan, norm_eps=values), model.state_dict())
    images = images_for(model.plan, 4)
    scaled = in_half_range(model, images)
    assert scaled is not model
    with torch.no_grad():
        pairs = zip(scaled.features(images), model.features(images), strict=True)
    if model.plan.norm == "before_pool":
        assert all(torch.equal(one, other) for one, other in pairs)
    assert torch.equal(outputs(scaled, images), outputs(model, images))


def test_one_outlying_channel_counts() -> None:
    model = tiny_vit()
    with torch.no_grad():
        model.blocks[0].mlp.fc2.bias[3] = 5000.0  # type: ignore[union-attr,operator,index]
    scaled = in_half_range(model, images_for(model.plan, 4))
    assert scaled.plan.norm_eps == pytest.approx(model.plan.eps_of("norm") / 64**2)
    assert distance(scaled, model, images_for(model.plan, 4, seed=3)) == 0.0


@pytest.mark.parametrize(
    ("energy", "scale"),
    [(0.0, 1.0), (16_376.0, 1.0), (16_377.0, 0.5), (65_504.0, 0.5), (65_505.0, 0.25), (1e8, 2.0**-7)],
)
def test_the_scale_is_the_largest_power_of_two_that_fits(energy: float, scale: float) -> None:
    assert scale_for(energy) == scale


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_diverged_is_not_scaled(value: float) -> None:
    model = tiny_vit()
    with torch.no_grad():
        model.patch_embed.bias[0] = value  # type: ignore[index]
    assert in_half_range(model, images_for(model.plan)) is model


def test_norms_are_left_without_hooks_and_the_model_as_it_was() -> None:
    model = loud(tiny_vit(), 300.0)
    before = {name: value.clone() for name, value in _named(model)}
    seen: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        seen.append((stage, done, total))

    in_half_range(model, images_for(model.plan, 4), progress)
    assert seen[-1] == ("float16 range", 4, 4)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in _named(model))


def test_tokens_before_the_first_norm_have_a_scale_of_their_own() -> None:
    model = model_of_kind("pre-average")
    images = images_for(model.plan)
    for own in (model, canonical(model)):
        both = scaled_stream(own, 0.25, 0.125)
        assert both.plan.eps_of("norm_pre") == own.plan.eps_of("norm_pre") / 64
        assert both.plan.eps_of("norm") == own.plan.eps_of("norm") / 16
        assert torch.equal(outputs(both, images), outputs(own, images))
        assert torch.equal(both.patch_embed.weight, own.patch_embed.weight / 8)
