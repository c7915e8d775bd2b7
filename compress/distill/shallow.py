"""Self-distillation: early blocks learn from the last block."""

from __future__ import annotations

import torch
from torch import nn

from .features import feature_loss
from .response import label_loss, soft_loss


class ShallowHead(nn.Module):
    """A classifier on a block's tokens, used only in training: mean of the patches, LayerNorm, Linear.

    Args:
        width: embed_dim.
        num_classes: number of classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps a block's hidden state ``(B, C, h, w)`` to logits ``(B, classes)``."""
        logits: torch.Tensor = self.head(self.norm(features.mean(dim=(2, 3))))
        return logits


def self_loss(
    shallow: torch.Tensor,
    deepest: torch.Tensor,
    features: tuple[torch.Tensor, torch.Tensor],
    labels: torch.Tensor,
    *,
    weight: float,
    feature_weight: float,
    temperature: float,
) -> torch.Tensor:
    """Returns the loss of one shallow classifier: ``(1-a)*cross-entropy + a*T^2*KL(deepest || shallow) + l*hint``.

    Args:
        shallow: logits ``(B, classes)`` of a classifier on an early block.
        deepest: logits ``(B, classes)`` of the network; no gradient reaches them.
        features: hidden states ``(B, C, h, w)`` of that block and of the last one; no gradient reaches the last one.
        labels: ``(B,)``, ``UNLABELLED`` for pictures without a label.
        weight: a, 0..1.
        feature_weight: l, of the ``feature_loss`` between the two hidden states.
        temperature: T, positive.

    Ref: Zhang et al. 2019 (Be Your Own Teacher, arXiv 1905.08094), section 3, with ``feature_loss`` in place of their
        squared distance.
    """
    soft = soft_loss(shallow, deepest.detach(), temperature)
    loss = (1 - weight) * label_loss(shallow, labels) + weight * soft
    return loss + feature_weight * feature_loss(*features, nn.Identity()) if feature_weight else loss
