"""Learning from a teacher's answers."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weight: float, temperature: float
) -> torch.Tensor:
    """Returns ``weight * T^2 * KL(teacher_T || student_T) + (1 - weight) * cross-entropy``, averaged over the batch.

    Args:
        student: logits ``(B, classes)``.
        teacher: logits ``(B, classes)``.
        labels: ``(B,)``.
        weight: of the distillation term, 0..1.
        temperature: T, positive.

    Ref: Hinton et al. 2015 (arXiv 1503.02531), section 2.
    """
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return weight * temperature**2 * soft + (1 - weight) * F.cross_entropy(student, labels)
