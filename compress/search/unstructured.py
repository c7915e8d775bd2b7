"""Unstructured magnitude pruning: the smallest weights of chosen layers become zeros, and every width stays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

import torch

from compress.model.vit import SlicedViT, build
from runtime import PlanError, check_fields

SparseLayer = Literal["qkv", "proj", "fc1", "fc2"]
SparseScope = Literal["layer", "global"]

SPARSE_LAYERS: tuple[SparseLayer, ...] = get_args(SparseLayer)
"""The Linears of a block: query, key and value, the output projection, and the two of the MLP."""

SPARSE_SCOPES: tuple[SparseScope, ...] = get_args(SparseScope)

Masks = Mapping[str, torch.Tensor]
"""By a weight's name a bool tensor of its shape, False where the weight is zero and stays so."""

_NAMES = {
    "qkv": ("attn.q", "attn.k", "attn.v"),
    "proj": ("attn.proj",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}


@dataclass(frozen=True)
class Sparsity:
    """Which weights become zeros.

    Attributes:
        share: of the weights of the chosen layers that go, more than 0 and less than 1.
        scope: ``layer`` takes this share of each matrix (query, key and value are three), ``global`` of all of them
            ranked together.
        layers: some of ``SPARSE_LAYERS``, in every block.

    Raises:
        PlanError: a value is out of range.
    """

    share: float = 0.9
    scope: SparseScope = "layer"
    layers: tuple[SparseLayer, ...] = SPARSE_LAYERS

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.share < 1:
            raise PlanError("The sparsity is a share", expected="more than 0 and less than 1", got=self.share)
        if not self.layers:
            raise PlanError("There is no layer to prune", expected=f"some of {', '.join(SPARSE_LAYERS)}", got="none")


def sparsity(share: float, scope: str, layers: tuple[str, ...]) -> Sparsity:
    """Returns settings from texts that may be wrong.

    Raises:
        PlanError: a value is out of range.
    """
    return Sparsity(share, cast(SparseScope, scope), cast(tuple[SparseLayer, ...], layers))


def sparse_weights(model: SlicedViT, layers: tuple[SparseLayer, ...] = SPARSE_LAYERS) -> dict[str, torch.Tensor]:
    """Returns the weights of the chosen layers by name, ``(out, in)`` each, block by block."""
    weights = dict(model.named_parameters())
    names = [name for layer in SPARSE_LAYERS if layer in layers for name in _NAMES[layer]]
    every = [f"blocks.{block}.{name}.weight" for block in range(len(model.plan.blocks)) for name in names]
    return {name: weights[name].detach() for name in every}


def magnitude_masks(model: SlicedViT, settings: Sparsity) -> dict[str, torch.Tensor]:
    """Chooses the weights of least magnitude.

    Of ``n`` weights ranked together the ``round(share * n)`` smallest go, the first of equals first.

    Args:
        model: whose weights; left as it is.
        settings: how many, and where.

    Returns:
        By the weight's name a bool tensor of its shape, False where a weight goes.

    Ref: Han et al. 2015, Learning both Weights and Connections (arXiv 1506.02626), section 3.
    """
    weights = sparse_weights(model, settings.layers)
    if settings.scope == "layer":
        return {name: _largest(weight.flatten(), settings.share).view_as(weight) for name, weight in weights.items()}
    every = _largest(torch.cat([weight.flatten() for weight in weights.values()]), settings.share)
    parts = torch.split(every, [weight.numel() for weight in weights.values()])
    return {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}


def _largest(weights: torch.Tensor, share: float) -> torch.Tensor:
    """Returns False for the share of ``weights`` ``(n,)`` of least magnitude, True for the rest."""
    gone = torch.argsort(weights.abs(), stable=True)[: round(share * len(weights))]
    stays = torch.ones(len(weights), dtype=torch.bool)
    stays[gone] = False
    return stays


def with_zeros(model: SlicedViT, masks: Masks) -> SlicedViT:
    """Returns a copy of ``model`` with zeros where a mask is False.

    Raises:
        PlanError: a mask is of no weight of the model, or of another shape.
    """
    weights = dict(model.state_dict())
    for name, mask in masks.items():
        if name not in weights or weights[name].shape != mask.shape:
            raise PlanError(f"The mask '{name}' does not fit the model", got=tuple(mask.shape))
        weights[name] = weights[name].masked_fill(~mask, 0.0)
    return build(model.plan, weights)


def hold_zeros(model: torch.nn.Module, masks: Masks) -> None:
    """Keeps weights that are zero at zero in training: their gradients are made zero as they come.

    An optimiser whose step is zero where gradient, moments and weight are zero, as AdamW's, then never moves them.

    Args:
        model: with zeros where a mask is False, as ``with_zeros`` makes it.
        masks: by the weight's name, False where it is held.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].register_hook(partial(_stopped, ~mask))  # type: ignore[no-untyped-call]


def _stopped(gone: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return gradient.masked_fill(gone.to(gradient.device), 0.0)


def digest_of(masks: Masks) -> str:
    """Returns 64 hexadecimal digits that tell masks apart."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name} {tuple(masks[name].shape)} ".encode() + masks[name].numpy().tobytes())
    return digest.hexdigest()
