"""Other ways to say how much a unit matters, to compare Fisher importance with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch

from compress.data.batches import Batch
from compress.importance import BlockImportance, Floats, Importance, fisher_scores, gradients_of, group_importance
from compress.model.vit import SlicedViT
from runtime import PlanError, Progress, silent

Criterion = Literal["fisher", "taylor", "l2", "random"]

CRITERIA: tuple[Criterion, ...] = ("fisher", "taylor", "l2", "random")
"""What units can be ranked by."""


def unit_importance(
    criterion: Criterion,
    model: SlicedViT,
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    bf16: bool = False,
    progress: Progress = silent,
    total: int = 0,
) -> Importance:
    """Returns the importance of every unit of ``model`` by one criterion.

    Args:
        criterion: ``fisher`` (``fisher_scores``), ``taylor`` (``taylor_scores``), ``l2`` (``l2_scores``) or ``random``
            (``random_importance``).
        model: the model; left as it was.
        batches: images ``(B, C, H, W)`` with labels ``(B,)``; ``l2`` and ``random`` draw none of them.
        seed: of ``random``.
        bf16: differentiate under bfloat16 autocast.
        progress: told after every batch.
        total: number of batches, for progress.

    Raises:
        PlanError: there is no such criterion, or no batch where one is needed.
    """
    if criterion not in CRITERIA:
        raise PlanError("That is not a criterion of importance", expected=", ".join(CRITERIA), got=repr(criterion))
    if criterion == "random":
        return random_importance(model, seed)
    if criterion == "l2":
        scores = l2_scores(model)
    elif criterion == "taylor":
        scores = taylor_scores(model, batches, bf16=bf16, progress=progress, total=total)
    else:
        scores = fisher_scores(model, batches, bf16=bf16, progress=progress, total=total)
    return group_importance(model.plan, scores)


def l2_scores(model: SlicedViT) -> dict[str, torch.Tensor]:
    """Returns ``w^2`` for every parameter, of its shape: summed over a group, the squared L2 norm of its weights.

    Ref: Li et al. 2017, Pruning Filters for Efficient ConvNets (arXiv 1608.08710), section 3.1, rank the filters of a
    layer by the L1 norm of their weights. The square of the L2 norm adds up over the matrices of a group.
    """
    return {name: value.detach() ** 2 for name, value in model.named_parameters()}


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

    The square of the mean, where ``fisher_scores`` has the mean of squares: gradients of different batches that point
    opposite ways cancel, and near the minimum of the loss, where their mean is small, chance decides.

    Args:
        model: the model; left as it was.
        batches: images ``(B, C, H, W)`` with labels ``(B,)``; L is the mean cross-entropy of a batch.
        bf16: compute under bfloat16 autocast.
        device: where to compute; by default where ``use_device`` says. What is returned lives where the model does.
        progress: told after every batch.
        total: number of batches, for progress.

    Raises:
        PlanError: there is no batch.

    Ref: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning (arXiv 1906.10771): the first-order
    Taylor expansion of the squared change of the loss, ``sum of (g w)^2`` over a group.
    """
    sums = [torch.zeros_like(value) for value in model.parameters()]
    found = gradients_of(model, batches, bf16=bf16, device=device, progress=progress, total=total)
    count = 0
    for gradients in found:
        count += 1
        for so_far, gradient in zip(sums, gradients, strict=True):
            so_far += gradient.float().to(so_far.device)
    named = zip(model.named_parameters(), sums, strict=True)
    return {name: (value.detach() * total_of / count) ** 2 for (name, value), total_of in named}


def random_importance(model: SlicedViT, seed: int) -> Importance:
    """Returns for every unit a number drawn evenly from 0 to 1, times the unit's number of parameters.

    By the number of parameters no kind of unit is favoured where importance is set against what a unit costs.

    Args:
        model: whose units; only their sizes count.
        seed: of the draw.
    """
    sizes = group_importance(model.plan, {name: torch.ones_like(value) for name, value in model.named_parameters()})
    generator = np.random.default_rng([seed, 17])

    def drawn(part: Floats) -> Floats:
        return part * generator.random(part.shape)

    embed = drawn(sizes.embed)
    return Importance(embed, tuple(BlockImportance(drawn(b.qk), drawn(b.v), drawn(b.mlp)) for b in sizes.blocks))
