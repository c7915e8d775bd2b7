"""The norms of a Vision Transformer."""

from __future__ import annotations

import torch
from torch import nn

from runtime import ShapePlan


class RmsNorm(nn.Module):
    """Divides tokens by their root mean square: ``x / sqrt(sum(x^2) / dim + eps)``.

    Args:
        dim: number that the sum of squares is divided by. In a stream that was cut it is the width before the cut, so
            that removed dimensions count as zeros; ``eps`` then includes their mean energy.
        eps: constant added to the mean square.

    Ref: Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4; here without a gain, which the next Linear takes.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(..., C)`` to ``(..., C)``."""
        return x * (x.square().sum(-1, keepdim=True) / self.dim + self.eps).rsqrt()


def norm_of(plan: ShapePlan, name: str) -> nn.Module:
    """Returns a new norm of ``SlicedViT(plan)``, such as ``blocks.0.norm1``."""
    width = plan.token_dim if name == "norm_pre" else plan.embed_dim
    if plan.norm_type == "layer":
        return nn.LayerNorm(width, eps=plan.eps_of(name))
    return RmsNorm(plan.norm_dim or width if name != "norm_pre" else width, plan.eps_of(name))
