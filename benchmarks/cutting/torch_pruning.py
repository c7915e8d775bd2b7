"""Cuts by the package Torch-Pruning, to two models around the budget."""

from __future__ import annotations

import torch
from torch_pruned import timm_of, torch_pruned_around

from compress.budget import Budget
from compress.model.vit import SlicedViT
from runtime import ModelError

from .cut_model import CutInputs, CutModel, selection

Gradients = dict[str, torch.Tensor]

_COSTS: dict[tuple[object, ...], dict[float, int]] = {}
"""MACs by ratio of the plans seen so far, which gradients and draws do not change."""


def gradients(inputs: CutInputs) -> Gradients:
    """Returns gradients of the cross-entropy summed over all batches, by timm's names."""
    model = timm_of(inputs.model, inputs.spec)
    for images, labels in inputs.batches():
        torch.nn.functional.cross_entropy(model(images), labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def choose(inputs: CutInputs, found: Gradients, budget: Budget) -> tuple[SlicedViT, ...]:
    """Returns the models that the package prunes at the two ratios around the budget, one ratio for all layers."""
    costs = _COSTS.setdefault((inputs.model.plan, budget.cost.name), {})
    return torch_pruned_around(inputs.model, inputs.spec, budget, found, ranked=False, costs=costs)


def cut(inputs: CutInputs, models: tuple[SlicedViT, ...], mend: bool) -> tuple[CutModel, ...]:
    """Returns the pruned models with the dimensions of the stream that each has kept."""
    assert not mend, "Torch-Pruning has no reconstruction"
    width = inputs.model.plan.embed_dim
    return tuple(CutModel(model, selection(kept_dimensions(model, inputs.model), width)) for model in models)


def kept_dimensions(model: SlicedViT, whole: SlicedViT) -> tuple[int, ...]:
    """Returns which dimensions of the whole model's stream a pruned model has, by the filters of its first layer.

    Raises:
        ModelError: a filter is not the whole model's, or two dimensions have the same.
    """
    own, theirs = ([row.numpy().tobytes() for row in one.patch_embed.weight.detach()] for one in (model, whole))
    places = {row: index for index, row in enumerate(theirs)}
    if len(places) != len(theirs) or not set(own) <= places.keys():
        raise ModelError("The kept dimensions of a model that Torch-Pruning has pruned cannot be told")
    return tuple(places[row] for row in own)
