"""Changes of basis compute the same function, and leave the caller's model as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.bases.analysis import analyse, features_in_canonical
from compress.bases.folded import cut_and_fit, in_best_bases
from compress.bases.sensitivity import features_of
from compress.bases.turning import random_rotation, turned
from compress.model.canonical import canonical
from compress.model.coordinates import Coordinates
from compress.model.slicing import keep_all
from compress.model.vit import SlicedViT
from tests.compress.bases.analysed import analysis_of, parts_for
from tests.compress.kinds import KINDS, WITH_RMS, distance, in_float64, model_of_kind
from tests.compress.tiny import images_for, tiny_vit

# float32 weights in other coordinates are rounded anew
FLOAT32, FLOAT64 = 1e-4, 1e-10


def features(model: SlicedViT, images: torch.Tensor, coordinates: Coordinates) -> torch.Tensor:
    """Returns all normed tokens in the coordinates of the whole model."""
    with torch.no_grad():
        stream = model.stream(images)
        for block in model.blocks:
            stream = block(stream)
        back = torch.eye(model.plan.embed_dim, dtype=stream.dtype)
        return coordinates.of(features_of(model, stream, back).tokens)


@pytest.mark.parametrize("key", KINDS)
def test_the_best_bases_are_exact_at_full_rank_in_both_precisions(key: str) -> None:
    model = model_of_kind(key)
    moments, felt = parts_for(model)
    images = images_for(model.plan, 4, seed=1)
    found, _, basis = in_best_bases(canonical(model), moments, felt)
    assert distance(found, model, images) <= FLOAT32
    exact, _, _ = in_best_bases(canonical(in_float64(model)), moments, felt)
    assert exact.head.weight.dtype == torch.float64
    assert distance(exact, in_float64(model), images.double()) <= FLOAT64
    eye = torch.eye(len(basis), dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, eye)
    assert torch.equal(basis, eye) == (key not in WITH_RMS)
    # every head has other units than before
    for one, other in zip(exact.blocks, canonical(model).blocks, strict=True):
        assert not torch.allclose(one.attn.q.weight.float(), other.attn.q.weight, atol=1e-3)
        assert not torch.allclose(one.attn.v.weight.float(), other.attn.v.weight, atol=1e-3)


@pytest.mark.parametrize("key", KINDS)
def test_random_bases_are_exact_in_both_precisions(key: str) -> None:
    model = model_of_kind(key)
    images = images_for(model.plan, 4)
    for whole, tolerance in ((model, FLOAT32), (in_float64(model), FLOAT64)):
        own = images.to(whole.head.weight.dtype)
        plain, coordinates = canonical(whole), features_in_canonical(whole)
        other, moved = turned(plain, coordinates, seed=3)
        assert other.head.weight.dtype == own.dtype
        assert distance(other, whole, own) <= tolerance
        wanted = features(plain, own, coordinates)
        torch.testing.assert_close(features(other, own, moved), wanted, rtol=0, atol=1e-4)
        again, _ = turned(plain, coordinates, seed=3)
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), again.parameters(), strict=True))
        elsewhere, _ = turned(plain, coordinates, seed=4)
        assert not torch.allclose(other.blocks[0].attn.q.weight, elsewhere.blocks[0].attn.q.weight, atol=1e-3)


def test_a_random_rotation_is_orthogonal() -> None:
    rotation = random_rotation(24, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(24, dtype=torch.float64))


@pytest.mark.parametrize("key", KINDS)
def test_features_of_the_canonical_form_are_mapped_to_the_models_own(key: str) -> None:
    model = in_float64(model_of_kind(key))
    images = images_for(model.plan).double()
    same = Coordinates(torch.eye(model.plan.embed_dim), torch.zeros(model.plan.embed_dim))
    wanted = features(model, images, same)
    if key in WITH_RMS:
        got = features(canonical(model), images, features_in_canonical(model))
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        # the basis of the analysis is in the coordinates, too
        found = analysis_of(key)
        torch.testing.assert_close(
            features(found.model, images.float(), found.coordinates), wanted, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("key", KINDS)
def test_keeping_every_unit_changes_nothing(key: str) -> None:
    found = analysis_of(key)
    every = keep_all(found.model.plan)
    same = found.cut(every)
    assert same.plan == found.model.plan
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), found.model.parameters(), strict=True))
    assert distance(same, model_of_kind(key), images_for(same.plan, 4, seed=1)) <= FLOAT32
    assert torch.equal(found.coordinates_of(every).matrix, found.coordinates.matrix)


def test_the_callers_model_and_torchs_state_are_left_alone() -> None:
    model = tiny_vit().train()
    model.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert torch.is_grad_enabled()
    with torch.no_grad():
        analyse(model, images_for(model.plan, 16))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(value.grad is None for value in model.parameters())
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["head.weight"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_images_give_the_same_analysis() -> None:
    model = tiny_vit()
    one, other = (analyse(model, images_for(model.plan, 16)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(one.importance.parts(), other.importance.parts(), strict=True))
    third = analyse(model, images_for(model.plan, 16, seed=9))
    assert not torch.allclose(one.model.blocks[0].attn.q.weight, third.model.blocks[0].attn.q.weight)


@pytest.mark.parametrize("key", ["vit", "clip", "roomy"])
def test_the_lost_energy_of_a_cut_stream_is_in_the_norms(key: str) -> None:
    found = analysis_of(key)
    plan, c = found.model.plan, found.model.plan.embed_dim
    kept = replace(keep_all(plan), embed=tuple(range(c - 16)))
    cut = cut_and_fit(found.model, found.moments, kept)
    assert (cut.plan.embed_dim, cut.plan.norm_dim) == (c - 16, c)
    for name in plan.norm_names:
        if name == "norm_pre":
            assert cut.plan.eps_of(name) == plan.eps_of(name)
            continue
        lost = float(found.moments.inputs[name].diagonal()[c - 16 :].sum()) / c
        assert lost > 0
        assert cut.plan.eps_of(name) == pytest.approx(plan.eps_of(name) + lost)
    # a norm that counts what is lost is right on the average
    norm, moment = cut.norm, found.moments.inputs["norm"]
    assert norm.dim * (float(moment.diagonal()[: c - 16].sum()) / c + norm.eps) == pytest.approx(
        float(moment.trace()) + c * plan.eps_of("norm"), rel=1e-6
    )
