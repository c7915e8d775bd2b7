"""How much each unit of a model matters to its loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from compress.data.batches import Batch
from compress.model.slicing import Kept
from compress.model.vit import EMBED, Axis, SlicedViT, parameter_axes
from runtime import PlanError, Progress, ShapePlan, silent

from .devices import autocast, copy_on, device_in_use

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BlockImportance:
    """Importance of the units of one block; all values are at least 0 and add up over a group.

    Attributes:
        qk: ``(num_heads, qk_dim)``.
        v: ``(num_heads, v_dim)``.
        mlp: ``(mlp_dim,)``.
    """

    qk: Floats
    v: Floats
    mlp: Floats


@dataclass(frozen=True)
class Importance:
    """Importance of every prunable unit of a model.

    Attributes:
        embed: ``(embed_dim,)``.
        blocks: the rest, block by block.
    """

    embed: Floats
    blocks: tuple[BlockImportance, ...]


def fisher_scores(
    model: SlicedViT,
    batches: Iterable[Batch],
    *,
    bf16: bool = False,
    device: torch.device | None = None,
    progress: Progress = silent,
    total: int = 0,
) -> dict[str, torch.Tensor]:
    """Returns for every parameter ``w^2 * mean over batches of (dL/dw)^2``, of the parameter's shape.

    The mean of squares, not the square of the mean: gradients of different batches do not cancel.

    Args:
        model: the model; left as it was.
        batches: images ``(B, C, H, W)`` with labels ``(B,)``; L is the mean cross-entropy of a batch.
        bf16: compute under bfloat16 autocast.
        device: where to compute; by default where ``use_device`` says. What is returned lives where the model does.
        progress: told after every batch.
        total: number of batches, for progress.

    Raises:
        PlanError: there is no batch.

    Ref: LeCun et al. 1989; Molchanov et al. 2019 (arXiv 1906.10771): I(w) = w^2 * 1/N sum_i (dL(x_i)/dw)^2.
    """
    device = device or device_in_use()
    squares = [torch.zeros_like(value, device=device) for value in model.parameters()]
    found = gradients_of(model, batches, bf16=bf16, device=device, progress=progress, total=total)
    count = 0
    for gradients in found:
        count += 1
        for so_far, gradient in zip(squares, gradients, strict=True):
            so_far += gradient.float() ** 2
    named = zip(model.named_parameters(), squares, strict=True)
    return {name: value.detach() ** 2 * square.to(value.device) / count for (name, value), square in named}


def gradients_of(
    model: SlicedViT,
    batches: Iterable[Batch],
    *,
    bf16: bool = False,
    device: torch.device | None = None,
    progress: Progress = silent,
    total: int = 0,
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields the gradients of the mean cross-entropy of each batch, of every parameter in turn and of its shape.

    Args:
        model: the model; left as it was.
        batches: images ``(B, C, H, W)`` with labels ``(B,)``.
        bf16: compute under bfloat16 autocast.
        device: where to compute, and where the gradients are; by default where ``use_device`` says.
        progress: told of a batch when the next one is asked for.
        total: number of batches, for progress.

    Raises:
        PlanError: there is no batch.
    """
    device = device or device_in_use()
    there = copy_on(model, device)
    parameters, count = list(there.parameters()), 0
    for count, (images, labels) in enumerate(batches, 1):
        with autocast(device, bf16):
            loss = F.cross_entropy(there(images.to(device)).float(), labels.to(device))
        yield torch.autograd.grad(loss, parameters)
        progress("importance", count, total or count)
    if not count:
        raise PlanError("Importance needs images", got="none")


def group_importance(plan: ShapePlan, scores: dict[str, torch.Tensor]) -> Importance:
    """Sums scores of single parameters into importance of units: ``I(W_g) = sum of I(w) over the group``.

    Args:
        plan: of the model the scores come from.
        scores: a non-negative tensor of each parameter's shape.
    """
    sums: dict[Axis, torch.Tensor] = {}
    for name, axes in parameter_axes(plan).items():
        score = scores[name].double()
        for dim, axis in enumerate(axes):
            if axis is not None:
                others = [d for d in range(score.ndim) if d != dim]
                part = score.sum(dim=others) if others else score  # torch takes no dims for all of them
                sums[axis] = sums[axis] + part if axis in sums else part
    blocks = []
    for i, block in enumerate(plan.blocks):
        qk = sums[Axis("qk", i)].view(block.num_heads, block.qk_dim)
        v = sums[Axis("v", i)].view(block.num_heads, block.v_dim)
        blocks.append(BlockImportance(qk.numpy(), v.numpy(), sums[Axis("mlp", i)].numpy()))
    return Importance(sums[EMBED].numpy(), tuple(blocks))


def part_of(importance: Importance, kept: Kept) -> Importance:
    """Returns the importance of the units that are kept, as it was before the others went."""
    blocks = []
    for own, keep in zip(importance.blocks, kept.blocks, strict=True):
        qk, v = (
            np.stack([scores[head, list(dims)] for head, dims in zip(keep.heads, per_head, strict=True)])
            for scores, per_head in ((own.qk, keep.qk), (own.v, keep.v))
        )
        blocks.append(BlockImportance(qk, v, own.mlp[list(keep.mlp)]))
    return Importance(importance.embed[list(kept.embed)], tuple(blocks))
