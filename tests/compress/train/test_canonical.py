"""Canonical models and cut streams are trained, and taught by the whole model, as any other model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress.data.augment import Augmentation
from compress.evaluate import score
from compress.model.canonical import canonical
from compress.model.slicing import keep_all, slice_vit
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from compress.train.fit import Trained, fit
from tests.compress.tiny import SPEC, TINY_PLAN, tiny_vit, toy_data

RECIPE = TrainRecipe(epochs=6, batch_size=8, lr=2e-3, head_lr=4e-3, warmup=0.2, patience=6, clip_norm=1.0)


def cut(model: SlicedViT) -> SlicedViT:
    """Removes 8 dimensions of the stream, and adds what they held to each norm."""
    small = slice_vit(model, replace(keep_all(model.plan), embed=tuple(range(8))))
    values = tuple(0.1 + 0.05 * place for place in range(len(small.plan.norm_names)))
    return build(replace(small.plan, norm_eps=values), small.state_dict())


def trained(model: SlicedViT, **options: object) -> Trained:
    return fit(model, toy_data(), SPEC, RECIPE, augmentation=Augmentation(mirror=0.0), seed=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("taught", [False, True])
def test_a_canonical_model_learns(pre: bool, taught: bool) -> None:
    whole = tiny_vit(replace(TINY_PLAN, norm_pre=pre))
    data = toy_data()
    for model in (canonical(whole), cut(canonical(whole))):
        before = score(model, data, data.held_out, SPEC)
        result = trained(model, teacher=whole if taught else None)
        assert result.model.plan == model.plan
        losses = [record.train_loss for record in result.epochs]
        assert losses[-1] < losses[0]
        if not taught:
            assert score(result.model, data, data.held_out, SPEC).loss < before.loss
        for name, value in result.model.named_parameters():
            # a key's bias moves all of a query's scores alike
            assert name.endswith("attn.k.bias") or not torch.equal(value, model.state_dict()[name]), name
        norms = [module.eps for name, module in result.model.named_modules() if name in model.plan.norm_names]
        assert sorted(norms) == sorted(model.plan.eps_of(name) for name in model.plan.norm_names)


def test_the_first_step_of_a_canonical_model_follows_the_same_loss() -> None:
    """Both forms compute the same, so the gradient of what both have, such as the head's bias, is the same."""
    whole = tiny_vit()
    images, labels = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    gradients = []
    for model in (whole, canonical(whole)):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        (gradient,) = torch.autograd.grad(loss, [model.head.bias])
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
