"""The MLP of a transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from runtime import BlockPlan, ShapePlan

from .norms import InnerNorm

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


class Mlp(nn.Module):
    """Linear, activation, Linear; the activation of a second Linear multiplies the first where the plan has gates.

    A gated one computes ``fc2(act(gate(x)) * fc1(x))``.

    Ref: Shazeer 2020 (GLU variants, arXiv 2002.05202), eq. 6.
    """

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        self.fc1 = nn.Linear(plan.embed_dim, block.mlp_dim)
        self.fc2 = nn.Linear(block.mlp_dim, plan.embed_dim)
        self.gate = nn.Linear(plan.embed_dim, block.mlp_dim) if plan.gated_mlp else None
        self.norm = InnerNorm(block.mlp_dim, plan.mlp_norm_dim, plan.inner_eps) if plan.mlp_norm else None
        self.act = ACTIVATIONS[plan.act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        out: torch.Tensor = self.fc2(self.hidden(x))
        return out

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the input of the second Linear, ``(B, N, mlp_dim)``."""
        out: torch.Tensor = self.act(self.fc1(x)) if self.gate is None else self.act(self.gate(x)) * self.fc1(x)
        return out if self.norm is None else self.norm(out)
