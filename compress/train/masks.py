"""Weights that are zero and stay zero while a model is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

import torch

from compress.model.vit import SlicedViT, build
from runtime import PlanError

Masks = Mapping[str, torch.Tensor]
"""For the name of a weight, a bool tensor of its shape: False where the weight is zero and stays zero."""


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
    """Keeps masked weights at zero during training by zeroing their gradients.

    AdamW takes no step where gradient, moments and weight are all zero.

    Args:
        model: a model that ``with_zeros`` made.
        masks: the masks it was made with.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].register_hook(partial(_zeroed, ~mask))  # type: ignore[no-untyped-call]


def _zeroed(masked: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return gradient.masked_fill(masked.to(gradient.device), 0.0)


def masks_digest(masks: Masks) -> str:
    """Returns a SHA-256 of the names, shapes and values of masks, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name} {tuple(masks[name].shape)} ".encode() + masks[name].numpy().tobytes())
    return digest.hexdigest()
