"""Scores of single parameters from weights and gradients, and the criteria made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from compress.data.batches import Batch
from compress.devices import autocast, copy_on, device_in_use
from compress.model.vit import SlicedViT
from runtime import PlanError, Progress, silent

from .base import ImportanceInputs
from .units import BlockImportance, Floats, Importance, group_importance, together


def fisher(inputs: ImportanceInputs) -> Importance:
    """Sums ``fisher_scores`` over each unit."""
    return group_importance(inputs.model.plan, fisher_scores(inputs.model, inputs.batches, **_options(inputs)))


def taylor(inputs: ImportanceInputs) -> Importance:
    """Sums ``taylor_scores`` over each unit."""
    return group_importance(inputs.model.plan, taylor_scores(inputs.model, inputs.batches, **_options(inputs)))


def l2(inputs: ImportanceInputs) -> Importance:
    """Sums the squared weights over each unit, without looking at an image.

    Ref: Li et al. 2017, Pruning Filters for Efficient ConvNets (arXiv 1608.08710), section 3.1, rank the filters of a
    layer by the L1 norm of their weights. The square of the L2 norm adds up over the matrices of a group.
    """
    return group_importance(inputs.model.plan, {k: v.detach() ** 2 for k, v in inputs.model.named_parameters()})


def random(inputs: ImportanceInputs) -> Importance:
    """Draws for each unit a number from 0 to 1, times the unit's number of parameters, without looking at an image.

    The number of parameters keeps the draw from favouring a kind of unit where importance is compared with cost.
    """
    ones = {name: torch.ones_like(value) for name, value in inputs.model.named_parameters()}
    sizes, generator = group_importance(inputs.model.plan, ones), np.random.default_rng([inputs.seed, 17])

    def drawn(part: Floats) -> Floats:
        return part * generator.random(part.shape)

    def drawn_together(part: Floats) -> Floats:
        return together(inputs.model.plan, torch.from_numpy(drawn(part))).numpy()

    embed = drawn(sizes.embed)
    return Importance(
        embed, tuple(BlockImportance(drawn_together(b.qk), drawn(b.v), drawn(b.mlp)) for b in sizes.blocks)
    )


def fisher_scores(
    model: SlicedViT,
    batches: Iterable[Batch],
    *,
    bf16: bool = False,
    device: torch.device | None = None,
    progress: Progress = silent,
    total: int = 0,
) -> dict[str, torch.Tensor]:
    """Returns ``w^2 * mean over batches of (dL/dw)^2`` for every parameter, of its shape.

    The mean of squares keeps gradients of different batches from cancelling.

    Args:
        model: the model; it is not changed.
        batches: images ``(B, C, H, W)`` with labels ``(B,)``; L is the mean cross-entropy of a batch.
        bf16: compute under bfloat16 autocast.
        device: device that computes; None takes the device in use. The scores are on the model's device.
        progress: called after every batch.
        total: number of batches, for progress.

    Raises:
        PlanError: there are no batches.

    Ref: LeCun et al. 1989; Molchanov et al. 2019 (arXiv 1906.10771): I(w) = w^2 * 1/N sum_i (dL(x_i)/dw)^2.
    """
    sums, count = _summed(model, batches, 2, bf16, device, progress, total)
    named = zip(model.named_parameters(), sums, strict=True)
    return {name: value.detach() ** 2 * squares / count for (name, value), squares in named}


def taylor_scores(
    model: SlicedViT,
    batches: Iterable[Batch],
    *,
    bf16: bool = False,
    device: torch.device | None = None,
    progress: Progress = silent,
    total: int = 0,
) -> dict[str, torch.Tensor]:
    """Returns ``(w * mean over batches of dL/dw)^2`` for every parameter, of its shape.

    Gradients of different batches that point opposite ways cancel, so that near the minimum of the loss, where their
    mean is small, noise decides.

    Args:
        model: the model; it is not changed.
        batches: images ``(B, C, H, W)`` with labels ``(B,)``; L is the mean cross-entropy of a batch.
        bf16: compute under bfloat16 autocast.
        device: device that computes; None takes the device in use. The scores are on the model's device.
        progress: called after every batch.
        total: number of batches, for progress.

    Raises:
        PlanError: there are no batches.

    Ref: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning (arXiv 1906.10771): the first-order
    Taylor expansion of the squared change of the loss, ``sum of (g w)^2`` over a group.
    """
    sums, count = _summed(model, batches, 1, bf16, device, progress, total)
    named = zip(model.named_parameters(), sums, strict=True)
    return {name: (value.detach() * gradients / count) ** 2 for (name, value), gradients in named}


def _options(inputs: ImportanceInputs) -> dict[str, Any]:
    return {"bf16": inputs.bf16, "progress": inputs.progress, "total": inputs.total}


def _summed(
    model: SlicedViT,
    batches: Iterable[Batch],
    power: int,
    bf16: bool,
    device: torch.device | None,
    progress: Progress,
    total: int,
) -> tuple[list[torch.Tensor], int]:
    """Returns the sums over batches of a power of every parameter's gradient, and the number of batches."""
    device = device or device_in_use()
    sums = [torch.zeros_like(value, device=device) for value in model.parameters()]
    count = 0
    for gradients in _gradients(model, batches, bf16, device, progress, total):
        count += 1
        for so_far, gradient in zip(sums, gradients, strict=True):
            so_far += gradient.float() ** power
    return [own.to(value.device) for own, value in zip(sums, model.parameters(), strict=True)], count


def _probed(vectors: torch.Tensor, number: int) -> torch.Tensor:
    """Returns the mean over a batch of a random projection of vectors of length 1.

    The mean square of its gradient is the Fisher information of a vector that is observed with equal noise in all
    directions.

    Args:
        vectors: ``(B, D)``, or those of a grid ``(B, rows, columns, D)``.
        number: number of the batch, which the projections depend on.
    """
    drawn = torch.randint(0, 2, vectors.shape, generator=torch.Generator().manual_seed(number))
    return (F.normalize(vectors, dim=-1) * (2 * drawn - 1).to(vectors)).flatten(1).sum(dim=1).mean()


def _gradients(
    model: SlicedViT, batches: Iterable[Batch], bf16: bool, device: torch.device, progress: Progress, total: int
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields the gradients of the mean cross-entropy of each batch, one for every parameter, of its shape.

    A model that answers with vectors has those of ``_probed`` in place of the cross-entropy.
    """
    there = copy_on(model, device)
    parameters, count = list(there.parameters()), 0
    vectors = isinstance(model, SlicedViT) and model.plan.is_vector
    for count, (images, labels) in enumerate(batches, 1):
        with autocast(device, bf16):
            outputs = there(images.to(device)).float()
            loss = _probed(outputs, count) if vectors else F.cross_entropy(outputs, labels.to(device))
        yield torch.autograd.grad(loss, parameters)
        progress("importance", count, total or count)
    if not count:
        raise PlanError("Importance needs images", got="none")
