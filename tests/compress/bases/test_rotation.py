"""Rotated models compute the same, and outlying channels are spread."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress.bases.rotation import mean_keeping_rotation, rotated_model
from compress.model.canonical import canonical, keeps_norms, plain_norms, rotate_stream
from compress.model.vit import SlicedViT, build
from tests.export.graph.test_build import ARCHITECTURES, EVERY, images_for, model_of


def logits(model: SlicedViT, images: torch.Tensor) -> torch.Tensor:
    """Returns the outputs for images ``(B, H, W, C)``, in float64."""
    own = build(model.plan, model.state_dict(), torch.float64)
    with torch.no_grad():
        return own(images.double().permute(0, 3, 1, 2))


@pytest.mark.parametrize("layer_norms", [False, True])
@pytest.mark.parametrize("form", ["whole", "canonical"])
@pytest.mark.parametrize("name", EVERY)
def test_a_rotation_changes_no_output(name: str, form: str, layer_norms: bool) -> None:
    own = model_of(EVERY[name])
    model = own if form == "whole" else canonical(own, torch.float64)
    images = images_for(own.plan)
    turned, wanted = rotated_model(model, layer_norms=layer_norms), logits(own, images)
    assert float((logits(turned, images) - wanted).abs().max() / wanted.abs().max()) < 1e-12
    kept = torch.equal(turned.blocks[0].mlp.fc1.weight, plain_or_canonical(model).blocks[0].mlp.fc1.weight)
    # a norm after the embedding leaves no Linear that could take the rotation
    behind = keeps_norms(EVERY[name])  # no Linear could take the rotation
    normed_first = EVERY[name].norm_pre
    assert kept == (behind or (normed_first and form == "whole" and layer_norms))
    assert not torch.allclose(turned.blocks[0].attn.v.weight, plain_or_canonical(model).blocks[0].attn.v.weight)
    assert turned.plan.norm_type == ("rms" if model.plan.norm_type == "rms" or (normed_first and not kept) else "layer")


def plain_or_canonical(model: SlicedViT) -> SlicedViT:
    return plain_norms(model, torch.float64) if model.plan.norm_type == "layer" else model


def test_norms_without_weights_compute_the_same() -> None:
    for plan in EVERY.values():
        model, images = model_of(plan), images_for(plan)
        plain = plain_norms(model, torch.float64)
        wanted = logits(model, images)
        assert float((logits(plain, images) - wanted).abs().max() / wanted.abs().max()) < 1e-12
        behind = keeps_norms(plan)
        assert bool((plain.blocks[1].norm2.weight == 1).all()) != behind
        assert bool(plain.blocks[1].norm2.bias.any()) == behind
        assert plain.blocks[0].gamma1 is None


def test_outlying_channels_are_spread_over_all() -> None:
    plan = replace(ARCHITECTURES["vit"], embed_dim=96)
    model = model_of(plan)
    with torch.no_grad():
        model.pos_embed[..., 5] += 100.0
    images = images_for(plan).permute(0, 3, 1, 2)
    with torch.no_grad():
        before, after = model.stream(images), rotated_model(model).stream(images.double())

    def crest(stream: torch.Tensor) -> float:
        centred = stream - stream.mean(-1, keepdim=True)
        return float((centred.abs().amax(-1) / centred.square().mean(-1).sqrt()).mean())

    assert crest(before) > 9
    assert crest(after) < 4.5


def test_hidden_units_of_relu_become_equally_large() -> None:
    model = model_of(ARCHITECTURES["one-patch-across"])
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[3] *= 100
        model.blocks[0].mlp.fc2.weight[:, 3] /= 100
        model.blocks[0].mlp.fc1.weight[5] = 0
        model.blocks[0].mlp.fc1.bias[5] = 0
    images = images_for(model.plan)
    turned, wanted = rotated_model(model), logits(model, images)
    assert float((logits(turned, images) - wanted).abs().max() / wanted.abs().max()) < 1e-12
    mlp = turned.blocks[0].mlp.requires_grad_(False)
    columns = mlp.fc2.weight.norm(dim=0)
    rows = torch.cat([mlp.fc1.weight, mlp.fc1.bias[:, None]], 1).norm(dim=1)
    others = torch.arange(96) != 5
    assert torch.allclose(columns[others], rows[others])
    assert float(rows[3] / rows[others].median()) < 3


@pytest.mark.parametrize("size", [1, 2, 8, 24])
def test_a_rotation_that_keeps_the_mean(size: int) -> None:
    turn = mean_keeping_rotation(size, torch.Generator().manual_seed(3))
    ones = torch.ones(size, dtype=torch.float64)
    assert torch.allclose(turn @ turn.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(ones @ turn, ones)
    assert torch.allclose(turn @ ones, ones)
    if size > 2:
        assert float(turn.abs().max()) < 0.99


def test_a_layer_norm_takes_no_rotation_that_moves_the_mean() -> None:
    plain = plain_norms(model_of(ARCHITECTURES["vit"]), torch.float64)
    basis = torch.eye(48, dtype=torch.float64)
    basis[0, 0] = -1
    with pytest.raises(AssertionError, match="the mean must stay"):
        rotate_stream(plain.plan, dict(plain.state_dict()), basis)


def test_seeds_draw_other_rotations_and_repeat() -> None:
    model = model_of(ARCHITECTURES["vit"])
    one, same, other = (rotated_model(model, seed).blocks[0].mlp.fc2.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
