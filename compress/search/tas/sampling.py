"""Draws candidates so that gradients reach the odds: the Gumbel-softmax, restricted to a few candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_LEAST = 2.0**-54
"""Smaller than every random number except 0, with a finite double logarithm."""


@dataclass(frozen=True)
class Pick:
    """The candidates of one choice in one step.

    Attributes:
        widths: candidates, the smallest first.
        weights: weights of the candidates, ``(len(widths),)``, which sum to 1.
    """

    widths: tuple[int, ...]
    weights: torch.Tensor


def relaxed(logits: torch.Tensor, temperature: float, uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Returns the logarithm of a Gumbel-softmax sample: nearly one-hot at low and nearly even at high temperature.

    It is ``log softmax((log p + o) / T)`` with ``p = softmax(logits)`` and ``o = -log(-log u)``. The largest entry is
    distributed as p at every temperature.

    Args:
        logits: ``(n,)``, or ``(..., n)`` for many samples.
        temperature: T, positive.
        uniform: u, random numbers in [0, 1) in the shape of the samples.

    Ref: Jang et al. 2017 (arXiv 1611.01144), equation 2; Dong and Yang 2019 (arXiv 1905.09717), equation 3.
    """
    noise = -np.log(-np.log(np.maximum(uniform, _LEAST)))
    return ((logits.log_softmax(-1) + torch.from_numpy(noise)) / temperature).log_softmax(-1)


def pick_some(
    logits: torch.Tensor, widths: tuple[int, ...], count: int, temperature: float, generator: np.random.Generator
) -> Pick:
    """Draws candidates without replacement by the odds of a Gumbel-softmax sample, and renormalises their weights.

    Args:
        logits: ``(n,)`` float64, with or without gradients.
        widths: ``(n,)`` candidates, smallest first.
        count: number of candidates to draw; all are drawn where there are fewer.
        temperature: temperature of the sample, positive.
        generator: source of all randomness.
    """
    sample = relaxed(logits, temperature, generator.random(len(widths)))
    drawn = sorted(draw_some(sample.detach(), count, generator.random(len(widths))).tolist())
    return Pick(tuple(widths[i] for i in drawn), sample[drawn].softmax(-1))


def draw_some(log_odds: torch.Tensor, count: int, uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Draws entries by their odds without replacement: the largest sums of log-odds and Gumbel noise.

    Unlike a draw by the odds, this works for odds of any size.

    Args:
        log_odds: ``(n,)``, or ``(..., n)`` for many draws.
        count: number of entries to draw; all are drawn where there are fewer.
        uniform: random numbers in [0, 1) in the shape of the draws.

    Returns:
        Indices ``(..., count)`` int64 in the order of the draw.
    """
    return relaxed(log_odds, 1.0, uniform).topk(min(count, uniform.shape[-1]), dim=-1).indices
