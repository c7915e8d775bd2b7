"""Drawing candidates so that gradients reach the odds: the Gumbel-softmax, and two candidates of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_LEAST = 2.0**-54
"""Below every number but 0 that a generator draws; its double logarithm is finite."""


@dataclass(frozen=True)
class Pick:
    """The candidates of one choice that take part in one step.

    Attributes:
        widths: one or two candidates, the smaller first.
        weights: ``(len(widths),)``, their shares; they sum to 1.
    """

    widths: tuple[int, ...]
    weights: torch.Tensor


def relaxed(logits: torch.Tensor, temperature: float, uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Returns the logarithm of a Gumbel-softmax sample: near one-hot when cold, near even when hot.

    ``log softmax((log p + o) / T)`` with ``p = softmax(logits)`` and ``o = -log(-log u)``: the most likely entry is
    distributed as p at every temperature.

    Args:
        logits: ``(n,)``, or ``(..., n)`` for many samples.
        temperature: T, positive.
        uniform: u, of the samples' shape, from 0 up to and without 1.

    Ref: Jang et al. 2017 (arXiv 1611.01144), equation 2; Dong and Yang 2019 (arXiv 1905.09717), equation 3.
    """
    noise = -np.log(-np.log(np.maximum(uniform, _LEAST)))
    return ((logits.log_softmax(-1) + torch.from_numpy(noise)) / temperature).log_softmax(-1)


def pick_two(logits: torch.Tensor, widths: tuple[int, ...], temperature: float, generator: np.random.Generator) -> Pick:
    """Draws two candidates, without putting back, by a Gumbel-softmax sample's own odds, and renormalises those two.

    Args:
        logits: ``(n,)`` float64, with or without gradients.
        widths: ``(n,)`` candidates, smallest first; of a single one there is nothing to draw.
        temperature: of the sample, positive.
        generator: what is random comes from here.
    """
    sample = relaxed(logits, temperature, generator.random(len(widths)))
    drawn = sorted(two_of(sample.detach(), generator.random(len(widths))).tolist())
    return Pick(tuple(widths[i] for i in drawn), sample[drawn].softmax(-1))


def two_of(log_odds: torch.Tensor, uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Draws two entries by their odds, without putting back: the two largest of log-odds plus Gumbel noise.

    Unlike a draw by the odds themselves it works however small they are.

    Args:
        log_odds: ``(n,)``, or ``(..., n)`` for many draws.
        uniform: of the draws' shape, from 0 up to and without 1.

    Returns:
        ``(..., 2)`` int64, the first one drawn first; ``(..., 1)`` where there is but one entry.
    """
    return relaxed(log_odds, 1.0, uniform).topk(min(2, uniform.shape[-1]), dim=-1).indices
