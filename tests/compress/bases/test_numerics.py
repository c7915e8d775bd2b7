"""Degenerate models and images give finite importance or an error of four parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from compress.bases.analysis import BasisAnalysis, analyse
from compress.bases.folded import in_best_bases
from compress.model.slicing import KeptUnits, keep_all
from compress.model.vit import SlicedViT
from runtime import ModelError
from tests.compress.bases.analysed import ROOMY
from tests.compress.kinds import distance
from tests.compress.tiny import images_for, tiny_vit


def narrow(found: BasisAnalysis) -> SlicedViT:
    """Cuts every head to 8 units and half of the MLPs and of the stream, in the order of importance."""
    kept = keep_all(found.model.plan)
    blocks = []
    for own, ranks in zip(kept.blocks, found.importance.blocks, strict=True):
        mlp = np.argsort(-ranks.mlp, kind="stable")[: 8 * (len(ranks.mlp) // 16)].tolist()
        eight = (tuple(range(8)),) * len(own.heads)
        blocks.append(replace(own, qk=eight, v=eight, mlp=tuple(sorted(mlp))))
    return found.cut(KeptUnits(tuple(range(16)), tuple(blocks)))


def assert_sound(model: SlicedViT, images: torch.Tensor) -> None:
    found = analyse(model, images)
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in found.importance.parts())
    assert all(torch.isfinite(value).all() for value in found.model.parameters())
    others = images_for(model.plan, 4, seed=5)
    assert distance(found.model, model, others) <= 1e-3
    cut = narrow(found)
    assert all(torch.isfinite(value).all() for value in cut.parameters())
    with torch.no_grad():
        assert torch.isfinite(cut(others)).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_images(value: float) -> None:
    assert_sound(tiny_vit(ROOMY), torch.full((8, 1, 8, 8), value))


@pytest.mark.parametrize("count", [1, 3])
def test_few_images(count: int) -> None:
    assert_sound(tiny_vit(ROOMY), images_for(ROOMY, count))


def zero_projection(model: SlicedViT) -> None:
    for block in model.blocks:
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()


def zero_attention(model: SlicedViT) -> None:
    for part in ("q", "k", "v"):
        layer = getattr(model.blocks[1].attn, part)
        layer.weight.zero_()
        layer.bias.zero_()


def dead_mlp(model: SlicedViT) -> None:
    """Makes all hidden units of a block zero for every image."""
    model.blocks[0].mlp.fc1.weight.zero_()
    model.blocks[0].mlp.fc1.bias.zero_()


def empty_mlp(model: SlicedViT) -> None:
    for block in model.blocks:
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()


def one_large_channel(model: SlicedViT) -> None:
    model.patch_embed.bias[3] = 1e4


@pytest.mark.parametrize("change", [zero_projection, zero_attention, dead_mlp, empty_mlp, one_large_channel])
def test_models_with_parts_that_do_nothing(change: Callable[[SlicedViT], None]) -> None:
    model = tiny_vit(ROOMY)
    with torch.no_grad():
        change(model)
    assert_sound(model, images_for(ROOMY, 24))


def test_a_model_that_sees_nothing() -> None:
    """Features that are zero have no relative error, and no division by zero comes of it."""
    model = tiny_vit(replace(ROOMY, pos_embed="none", pooling="avg", class_token=False))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.startswith("head"):
                value.zero_()
    found = analyse(model, images_for(model.plan, 8))
    assert all(np.isfinite(part).all() for part in found.importance.parts())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["blocks.1.attn.q.weight", "pos_embed", "norm.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    model = tiny_vit(ROOMY)
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[0] = value
    with pytest.raises(ModelError) as caught:
        analyse(model, images_for(ROOMY, 8))
    assert f"The weight '{name}' holds numbers that are not finite" in str(caught.value)
    assert "load another one" in str(caught.value)


def test_activations_that_overflow_are_refused() -> None:
    model = tiny_vit(ROOMY)
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight.fill_(1e30)
    with pytest.raises(ModelError, match="What the model computes on these images is not finite"):
        analyse(model, images_for(ROOMY, 8))


def test_images_that_are_not_finite_are_refused() -> None:
    images = images_for(ROOMY, 8)
    images[3, 0, 2, 2] = float("nan")
    with pytest.raises(ModelError, match="on these images is not finite"):
        analyse(tiny_vit(ROOMY), images)


def test_bases_that_change_the_function_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*given: Any) -> Any:
        found, moments, basis = in_best_bases(*given)
        with torch.no_grad():
            found.head.weight.mul_(1.01)
        return found, moments, basis

    monkeypatch.setattr("compress.bases.analysis.in_best_bases", spoilt)
    model = tiny_vit()
    with pytest.raises(ModelError, match="does not compute the same"):
        analyse(model, images_for(model.plan, 8))
