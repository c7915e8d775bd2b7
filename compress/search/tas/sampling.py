"""Drawing candidates so that gradients reach the odds: the Gumbel-softmax, and a few candidates of it."""

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
        widths: candidates, the smallest first.
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


def pick_some(
    logits: torch.Tensor, widths: tuple[int, ...], count: int, temperature: float, generator: np.random.Generator
) -> Pick:
    """Draws candidates, without putting back, by a Gumbel-softmax sample's own odds, and renormalises those.

    Args:
        logits: ``(n,)`` float64, with or without gradients.
        widths: ``(n,)`` candidates, smallest first.
        count: how many take part; of fewer candidates all do.
        temperature: temperature of the sample, positive.
        generator: source of all randomness.
    """
    sample = relaxed(logits, temperature, generator.random(len(widths)))
    drawn = sorted(draw_some(sample.detach(), count, generator.random(len(widths))).tolist())
    return Pick(tuple(widths[i] for i in drawn), sample[drawn].softmax(-1))


def draw_some(log_odds: torch.Tensor, count: int, uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Draws entries by their odds, without putting back: the largest of log-odds plus Gumbel noise.

    Unlike a draw by the odds themselves it works however small they are.

    Args:
        log_odds: ``(n,)``, or ``(..., n)`` for many draws.
        count: entries of a draw; where there are fewer, all of them.
        uniform: uniform of the draws' shape, from 0 up to and without 1.

    Returns:
        ``(..., count)`` int64, the first one drawn first.
    """
    return relaxed(log_odds, 1.0, uniform).topk(min(count, uniform.shape[-1]), dim=-1).indices
