"""Unstructured magnitude pruning: the smallest weights of chosen layers become zeros, and every width stays."""

from __future__ import annotations

import torch

from compress.model.slicing import keep_all
from compress.model.vit import SlicedViT

from .base import Proposal, SearchInputs
from .sparse_settings import SPARSE_LAYERS, SparseLayer, SparseSettings

_NAMES = {
    "qkv": ("attn.q", "attn.k", "attn.v"),
    "proj": ("attn.proj",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}


def choose(inputs: SearchInputs) -> Proposal:
    """Chooses the weights that become zeros; all units stay."""
    plan = inputs.model.plan
    return Proposal(plan, keep_all(plan), masks=magnitude_masks(inputs.model, inputs.settings))


def sparse_weights(model: SlicedViT, layers: tuple[SparseLayer, ...] = SPARSE_LAYERS) -> dict[str, torch.Tensor]:
    """Returns the weights of the chosen layers by name, ``(out, in)`` each, block by block."""
    weights = dict(model.named_parameters())
    names = [name for layer in SPARSE_LAYERS if layer in layers for name in _NAMES[layer]]
    every = [f"blocks.{block}.{name}.weight" for block in range(len(model.plan.blocks)) for name in names]
    return {name: weights[name].detach() for name in every}


def magnitude_masks(model: SlicedViT, settings: SparseSettings) -> dict[str, torch.Tensor]:
    """Chooses the weights of least magnitude.

    Of ``n`` weights that are ranked together the ``round(sparsity * n)`` smallest go, the first of equals first.

    Args:
        model: the model; it is not changed.
        settings: how many weights go, and from which layers.

    Returns:
        For the name of each weight a bool tensor of its shape, False where the weight goes.

    Ref: Han et al. 2015, Learning both Weights and Connections (arXiv 1506.02626), section 3.
    """
    weights, share = sparse_weights(model, settings.layers), settings.sparsity
    if settings.scope == "layer":
        return {name: _largest(weight.flatten(), share).view_as(weight) for name, weight in weights.items()}
    every = _largest(torch.cat([weight.flatten() for weight in weights.values()]), share)
    parts = torch.split(every, [weight.numel() for weight in weights.values()])
    return {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}


def _largest(weights: torch.Tensor, share: float) -> torch.Tensor:
    """Returns False for the share of ``weights`` ``(n,)`` of least magnitude, True for the rest."""
    removed = torch.argsort(weights.abs(), stable=True)[: round(share * len(weights))]
    stays = torch.ones(len(weights), dtype=torch.bool)
    stays[removed] = False
    return stays
