"""Relation-based distillation: losses on distances and angles between a teacher's embeddings."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_DISTINCT = 1e-6
"""Pictures closer than this share of the mean distance count as one point, without a direction between them."""


def distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns the loss between the student's and the teacher's distances of pictures; zero for a single picture.

    ``mean over i != j of l(d_ij(teacher), d_ij(student))``, where d_ij is the Euclidean distance of two embeddings
    divided by the mean over all pairs, and l is Huber's loss with threshold 1.

    Args:
        student: embeddings ``(B, C)``.
        teacher: embeddings ``(B, D)``; no gradient reaches them.

    Ref: Park et al. 2019 (RKD, arXiv 1904.05068), section 3.2.1, with a mean in place of the sum.
    """
    batch = len(student)
    if batch < 2:
        return student.sum() * 0.0
    pairs = ~torch.eye(batch, dtype=torch.bool)
    own, wanted = (_scaled(_distances(x)[pairs]) for x in (student, teacher.detach()))
    return F.smooth_l1_loss(own, wanted)


def angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns the loss between the student's and the teacher's angles of three pictures; zero for fewer than three.

    ``mean over i, j, k of l(<e_ij, e_kj>(teacher), <e_ij, e_kj>(student))``, where e_ij is the unit vector from
    embedding j to embedding i, and l is Huber's loss with threshold 1. Triples in which a network maps i or k onto j
    have no angle and are left out.

    Args:
        student: embeddings ``(B, C)``.
        teacher: embeddings ``(B, D)``; no gradient reaches them.

    Ref: Park et al. 2019 (RKD, arXiv 1904.05068), section 3.2.2, with a mean in place of the sum.
    """
    own, own_distinct = _directions(student)
    wanted, wanted_distinct = _directions(teacher.detach())
    distinct = own_distinct & wanted_distinct
    others = ~torch.eye(len(student), dtype=torch.bool)
    triples = distinct[:, :, None] & distinct[:, None, :] & others[None]
    if not bool(triples.any()):
        return student.sum() * 0.0
    cosines, wanted_cosines = (torch.einsum("jic,jkc->jik", e, e)[triples] for e in (own, wanted))
    return F.smooth_l1_loss(cosines, wanted_cosines)


def _distances(x: torch.Tensor) -> torch.Tensor:
    # torch.cdist may use matrix products, which lose small distances
    squares = (x[:, None] - x[None]).square().sum(dim=-1)
    same = squares == 0
    return torch.where(same, 0.0, torch.where(same, 1.0, squares).sqrt())


def _scaled(distances: torch.Tensor) -> torch.Tensor:
    return distances / distances.mean().clamp_min(torch.finfo(distances.dtype).tiny)


def _directions(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns unit vectors ``(B, B, C)`` from row j to row i at ``[j, i]``, and a mask ``(B, B)`` of existing ones."""
    differences = x[None] - x[:, None]
    distances = _distances(x)
    distinct = distances > _DISTINCT * distances.mean()
    return differences / torch.where(distinct, distances, 1.0)[..., None], distinct
