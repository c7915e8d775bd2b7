"""Best bases inside attention heads: of queries with keys, and of values with the projection."""

from __future__ import annotations

import torch

_DAMPING, _FLOOR = 1e-5, 1e-9


def roots(moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the square root and the inverse square root of symmetric matrices ``(..., d, d)``, float64.

    A 1e-5 of the mean diagonal is added, and eigenvalues below 1e-9 of the largest are raised to it, so that directions
    without energy do not explode.
    """
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype)
    values, vectors = torch.linalg.eigh(moment + (_DAMPING * mean + 1e-30) * eye)
    values = values.clamp_min(1e-300).maximum(_FLOOR * values[..., -1:])
    back = vectors.transpose(-2, -1)
    return vectors * values.sqrt()[..., None, :] @ back, vectors * values.rsqrt()[..., None, :] @ back


def query_key_basis(queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the maps of a head's queries and keys to the basis whose first r units are the best r for the scores.

    With the moments S_q of queries and S_k of keys and the singular value decomposition ``S_q^1/2 S_k^1/2 = U s V^T``,
    the query becomes ``s^1/2 U^T S_q^-1/2 q`` and the key ``s^1/2 V^T S_k^-1/2 k``; their product is the same.

    Args:
        queries: S_q of each head, ``(H, d, d)`` float64.
        keys: S_k of each head, ``(H, d, d)``.

    Returns:
        Two ``(H, d, d)``; row r of each makes unit r.
    """
    q, q_inverse = roots(queries)
    k, k_inverse = roots(keys)
    u, s, vt = torch.linalg.svd(q @ k)
    g = s.clamp_min(1e-12 * s[..., :1].clamp_min(1e-30)).sqrt()[..., None]
    return g * (u.transpose(-2, -1) @ q_inverse), g * (vt @ k_inverse)


def value_basis(mixed: torch.Tensor, projection: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the maps of a head's values and of its projection to the basis whose first r units are the best r.

    With the moment S of what the head mixes and the decomposition ``P S^1/2 = U s V^T`` of its projection P, the value
    becomes ``V^T S^-1/2 v`` and the projection ``P S^1/2 V``.

    Args:
        mixed: S of each head, ``(H, d, d)`` float64.
        projection: P of each head, ``(H, C, d)``, weighted by the sensitivity of the output.

    Returns:
        ``(H, d, d)``, whose row r makes unit r, and its inverse.
    """
    root, inverse = roots(mixed)
    _, _, vt = torch.linalg.svd(projection @ root, full_matrices=False)
    return vt @ inverse, root @ vt.transpose(-2, -1)


def ordering(energy: torch.Tensor) -> torch.Tensor:
    """Returns the maps of each head's units to the same units in the order of their energy, the largest first.

    Args:
        energy: ``(H, d)``; equal units stay in order.

    Returns:
        ``(H, d, d)`` permutations, float64.
    """
    order = energy.argsort(dim=1, descending=True, stable=True)
    return torch.eye(energy.shape[1], dtype=torch.float64)[order]
