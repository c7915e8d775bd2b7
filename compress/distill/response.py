"""Response-based distillation: losses on a teacher's logits."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from compress.data.dataset import UNLABELLED

_TINY = 1e-12
"""Lower bound of the energy that an error is divided by."""


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns ``T^2 * KL(teacher_T || student_T)``, averaged over the batch; T² keeps the size of gradients.

    Args:
        student: logits ``(B, classes)``.
        teacher: logits ``(B, classes)``.
        temperature: T, positive.

    Ref: Hinton et al. 2015 (arXiv 1503.02531), section 2.
    """
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy, averaged over the pictures with a label; zero for a batch without labels.

    Args:
        logits: ``(B, classes)``.
        labels: ``(B,)``, ``UNLABELLED`` for pictures without a label.
    """
    if bool((labels == UNLABELLED).all()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits, labels, ignore_index=UNLABELLED)


def vector_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns the squared error of a batch of vectors relative to the teacher's: ``||s - t||^2 / ||t||^2``.

    Args:
        student: vectors ``(B, D)``, or those of a grid ``(B, rows, columns, D)``.
        teacher: the same of the teacher; no gradient reaches them.
    """
    wanted = teacher.detach()
    return (student - wanted).square().sum() / wanted.square().sum().clamp_min(_TINY)


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weight: float, temperature: float
) -> torch.Tensor:
    """Returns ``weight * T^2 * KL(teacher_T || student_T) + (1 - weight) * cross-entropy``, averaged over the batch.

    The first term is over all pictures, the second over those with a label.

    Args:
        student: logits ``(B, classes)``.
        teacher: logits ``(B, classes)``.
        labels: ``(B,)``, ``UNLABELLED`` for pictures without a label.
        weight: weight of the distillation term, 0..1.
        temperature: T, positive.

    Ref: Hinton et al. 2015 (arXiv 1503.02531), section 2.
    """
    return weight * soft_loss(student, teacher, temperature) + (1 - weight) * label_loss(student, labels)


def mutual_losses(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weights: tuple[float, float], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the losses of a student and a teacher that are trained together and learn from each other's logits.

    Each is ``distillation_loss`` with the other's logits held fixed; at T = 1 and weight 1/2 it is half of deep
    mutual learning's ``cross-entropy + KL(other || own)``.

    Args:
        student: logits ``(B, classes)``.
        teacher: logits ``(B, classes)``.
        labels: ``(B,)``, ``UNLABELLED`` for pictures without a label.
        weights: weights of the teacher's logits in the student's loss and of the student's in the teacher's, 0..1.
        temperature: T, positive.

    Ref: Zhang et al. 2018 (Deep Mutual Learning, arXiv 1706.00384), section 3.1.
    """
    own = distillation_loss(student, teacher.detach(), labels, weights[0], temperature)
    return own, distillation_loss(teacher, student.detach(), labels, weights[1], temperature)
