from __future__ import annotations

import pytest
import torch

from benchmarks.torch_pruned import pruned_timm, sliced_of, timm_of, torch_pruned_around
from compress.budget import parse_budget
from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT

SHAPE = {"embed_dim": 64, "depth": 1, "num_heads": 2}
WITH_SCALE = ModelSpec("vit_small_patch14_dinov2", 28, overrides=SHAPE)
WITH_REGISTERS = ModelSpec("vit_small_patch14_reg4_dinov2", 28, overrides=SHAPE)
WITHOUT = ModelSpec("vit_tiny_patch16_224", 32, 8, overrides=SHAPE)
SPECS = pytest.mark.parametrize("spec", [WITH_SCALE, WITH_REGISTERS, WITHOUT], ids=lambda spec: spec.name)


def distinct(spec: ModelSpec) -> SlicedViT:
    """Returns a model none of whose parameters is zero, and whose LayerScale is large enough to matter."""
    model, random = load_model(spec, 5, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=random))
    return model


def images_for(spec: ModelSpec) -> torch.Tensor:
    return torch.randn(3, 3, spec.img_size, spec.img_size, generator=torch.Generator().manual_seed(3))


def gradients_of(model: SlicedViT, spec: ModelSpec) -> dict[str, torch.Tensor]:
    other = timm_of(model, spec)
    torch.nn.functional.cross_entropy(other(images_for(spec)), torch.arange(3)).backward()
    return {name: value.grad for name, value in other.named_parameters()}


@SPECS
def test_a_model_goes_to_timm_and_back_unchanged(spec: ModelSpec) -> None:
    model = distinct(spec)
    other = timm_of(model, spec)
    back = sliced_of(other, {block.attn.qkv: block.attn.num_heads for block in other.blocks})
    assert back.plan == model.plan
    assert all(torch.equal(own, back.state_dict()[name]) for name, own in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(other(images_for(spec)), model(images_for(spec)), rtol=1e-4, atol=1e-4)


@SPECS
def test_a_pruned_model_answers_as_ours(spec: ModelSpec) -> None:
    pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed")
    model = distinct(spec)
    gradients, images = gradients_of(model, spec), images_for(spec)
    for ratio, smaller in ((0.0, False), (0.3, True)):
        theirs, heads = pruned_timm(model, spec, gradients, ratio, ranked=False)
        ours = sliced_of(theirs, heads)
        assert (ours.plan.embed_dim < model.plan.embed_dim) is smaller
        assert (ours.plan == model.plan) is not smaller
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_two_pruned_models_lie_around_a_budget() -> None:
    pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed")
    model = distinct(WITH_SCALE)
    budget = parse_budget("macs=0.6", model.plan)
    above, below = torch_pruned_around(model, WITH_SCALE, budget, gradients_of(model, WITH_SCALE), ranked=False)
    assert budget.of(below.plan) < budget.limit <= budget.of(above.plan) < budget.of(model.plan)
