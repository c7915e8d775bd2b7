"""The order in which hidden units of an MLP can go, and least squares over what stays."""

from __future__ import annotations

import torch

_DAMPING, _CANDIDATES, _RIDGE = 1e-2, 6, 1e-3

_LEAST_ENERGY = 1e-20
"""Lower bound of the mean energy of hidden units, relative to that of the one, so that dead units can be inverted."""


def removal_order(moment: torch.Tensor, weight: torch.Tensor, least: int, group: int = 8) -> list[int]:
    """Returns hidden units in the order of their removal, which ends with ``least`` of them left.

    The unit with the least ``|W_j|^2 / [H^-1]_jj`` goes, its part is given to the others by least squares, and H^-1 is
    that of the rest. Units go in groups; within a group each choice among the best candidates is exact.

    Args:
        moment: H, ``(m + 1, m + 1)`` float64: of the hidden units and a one, which stays.
        weight: W, ``(C, m + 1)`` float64: second Linear with its bias, weighted by the sensitivity of the output.
        least: number of units that stay.
        group: units that go at a time.

    Ref: Hassibi and Stork 1992 (optimal brain surgeon), eq. 5; Kurtic et al. 2023 (ZipLM, arXiv 2302.04089), eq. 2.
    """
    size = len(moment)
    damping = _DAMPING * _mean_energy(moment) * torch.eye(size, dtype=moment.dtype)
    inverse = torch.linalg.inv(moment + damping)
    w, names = weight.clone(), torch.arange(size)
    order: list[int] = []
    while size - 1 > least:
        take = min(group, size - 1 - least)
        scores = w[:, :-1].square().sum(0) / inverse.diagonal()[:-1]
        few = torch.topk(scores, min(_CANDIDATES * take, size - 1), largest=False).indices
        gone = few[_exact_order(inverse[few][:, few], w[:, few], take)]
        order += names[gone].tolist()
        stay = torch.ones(size, dtype=torch.bool)
        stay[gone] = False
        stay = stay.nonzero()[:, 0]
        half = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
        w = w[:, stay] - w[:, gone] @ half[:, stay]
        inverse = inverse[stay][:, stay] - inverse[stay][:, gone] @ half[:, stay]
        names, size = names[stay], len(stay)
    return order


def _exact_order(inverse: torch.Tensor, weight: torch.Tensor, take: int) -> torch.Tensor:
    """Returns which ``take`` of some candidates go, one after the other."""
    products, inverse = weight.T @ weight, inverse.clone()
    gone: list[int] = []
    for _ in range(take):
        scores = products.diagonal() / inverse.diagonal()
        scores[gone] = float("inf")
        j = int(scores.argmin())
        gone.append(j)
        # W_k becomes W_k - W_j c_k, and the products follow
        c = inverse[:, j] / inverse[j, j]
        row = products[j].clone()
        products += torch.outer(c, c) * row[j] - torch.outer(c, row) - torch.outer(row, c)
        inverse = inverse - torch.outer(c, inverse[j])
        inverse[j, j] = 1.0
    return torch.tensor(gone)


def fitted(moment: torch.Tensor, weight: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Returns the weights over some inputs that are closest to a Linear's output over all inputs.

    Args:
        moment: ``(m + 1, m + 1)`` float64, of the Linear's inputs and a one.
        weight: ``(o, m + 1)`` float64, the Linear with its bias.
        kept: positions of the inputs that stay, without that of the one.

    Returns:
        ``(o, len(kept) + 1)``, the weights and the bias.
    """
    stay = torch.cat([kept, torch.tensor([len(moment) - 1])])
    own = moment[stay][:, stay]
    ridge = _RIDGE * _mean_energy(own) * torch.eye(len(stay), dtype=own.dtype)
    ridge[-1, -1] *= 1e-6
    # what is missing is fitted, so that the ridge pulls towards the weights as they are
    missing = moment[stay] @ weight.T - own @ weight[:, stay].T
    fit: torch.Tensor = weight[:, stay] + torch.linalg.solve(own + ridge, missing).T
    return fit


def _mean_energy(moment: torch.Tensor) -> torch.Tensor:
    """Returns the mean energy of the units of a moment whose last row is that of the one."""
    energy = moment.diagonal()
    return energy[:-1].mean().maximum(_LEAST_ENERGY * energy[-1])
