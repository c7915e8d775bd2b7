"""Learning how a teacher arranges pictures to each other (relation-based distillation)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_APART = 1e-6
"""Pictures nearer to each other than this share of the mean distance are one point, which has no direction."""


def distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns how far the distances between pictures are from the teacher's; zero for a single picture.

    ``mean over i != j of l(d_ij(teacher), d_ij(student))``: d_ij is the Euclidean distance of two embeddings divided
    by the mean over all such pairs, l is Huber's loss with threshold 1.

    Args:
        student: embeddings ``(B, C)``.
        teacher: embeddings ``(B, D)``; no gradient reaches them.

    Ref: Park et al. 2019 (RKD, arXiv 1904.05068), section 3.2.1; a mean in place of the sum.
    """
    batch = len(student)
    if batch < 2:
        return student.sum() * 0.0
    pairs = ~torch.eye(batch, dtype=torch.bool)
    own, wanted = (_scaled(_distances(x)[pairs]) for x in (student, teacher.detach()))
    return F.smooth_l1_loss(own, wanted)


def angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns how far the angles between three pictures are from the teacher's; zero for fewer than three.

    ``mean over i, j, k of l(<e_ij, e_kj>(teacher), <e_ij, e_kj>(student))``: e_ij is the unit vector from embedding j
    to embedding i, l is Huber's loss with threshold 1. Where either network puts i or k onto j there is no angle, and
    the triple does not count.

    Args:
        student: embeddings ``(B, C)``.
        teacher: embeddings ``(B, D)``; no gradient reaches them.

    Ref: Park et al. 2019 (RKD, arXiv 1904.05068), section 3.2.2; a mean in place of the sum.
    """
    own, own_apart = _directions(student)
    wanted, wanted_apart = _directions(teacher.detach())
    apart = own_apart & wanted_apart
    others = ~torch.eye(len(student), dtype=torch.bool)
    triples = apart[:, :, None] & apart[:, None, :] & others[None]
    if not bool(triples.any()):
        return student.sum() * 0.0
    cosines, wanted_cosines = (torch.einsum("jic,jkc->jik", e, e)[triples] for e in (own, wanted))
    return F.smooth_l1_loss(cosines, wanted_cosines)


def _distances(x: torch.Tensor) -> torch.Tensor:
    # not torch.cdist: it may take the way of matrix products, which loses the small distances
    squares = (x[:, None] - x[None]).square().sum(dim=-1)
    same = squares == 0
    return torch.where(same, 0.0, torch.where(same, 1.0, squares).sqrt())


def _scaled(distances: torch.Tensor) -> torch.Tensor:
    return distances / distances.mean().clamp_min(torch.finfo(distances.dtype).tiny)


def _directions(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns unit vectors ``(B, B, C)`` from row j to row i at ``[j, i]``, and where there are any ``(B, B)``."""
    differences = x[None] - x[:, None]
    distances = _distances(x)
    apart = distances > _APART * distances.mean()
    return differences / torch.where(apart, distances, 1.0)[..., None], apart
