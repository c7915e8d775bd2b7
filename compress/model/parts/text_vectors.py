"""The last Linear of a zero-shot classifier: its rows are the vectors of texts, which no training changes."""

from __future__ import annotations

import torch
from torch import nn

from runtime import ShapePlan


class TextVectors(nn.Module):
    """Maps the vector of an image to a logit for each text.

    The rows of ``weight``, ``(num_classes, text_dim)``, are the vectors of the texts times the factor of the logits.
    They and ``bias``, ``(num_classes,)``, are buffers: a training of the model leaves what the texts mean.

    Args:
        plan: plan of the model.

    Ref: Radford et al. 2021 (CLIP, arXiv 2103.00020), section 3.1.2; Zhai et al. 2023 (SigLIP, arXiv 2303.15343),
        algorithm 1.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, plan: ShapePlan) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(plan.num_classes, plan.text_dim))
        self.register_buffer("bias", torch.zeros(plan.num_classes))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Maps vectors ``(B, text_dim)`` of length 1 to logits ``(B, num_classes)``."""
        return nn.functional.linear(vectors, self.weight, self.bias)
