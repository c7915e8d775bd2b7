"""The optimiser of a training, and its learning rate at every step."""

from __future__ import annotations

import math

import torch
from torch import nn

from compress.recipe import TrainRecipe


def make_optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """Returns AdamW with one learning rate for the backbone and one for the head, without decay of norms and biases."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = name.endswith("weight") and parameter.ndim > 1
        groups.setdefault((name.startswith("head"), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": recipe.head_lr if head else recipe.lr,
                "weight_decay": recipe.weight_decay if decays else 0.0,
            }
            for (head, decays), parameters in groups.items()
        ],
        lr=recipe.lr,
    )


def learning_rate(step: int, total: int, warmup: float) -> float:
    """Returns the share of the peak learning rate at ``step`` of ``total``: a linear warm-up, then half a cosine."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, total - rise)))
