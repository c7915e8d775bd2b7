"""The MLP of a transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from runtime import BlockPlan, ShapePlan

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


class Mlp(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        self.fc1 = nn.Linear(plan.embed_dim, block.mlp_dim)
        self.fc2 = nn.Linear(block.mlp_dim, plan.embed_dim)
        self.act = ACTIVATIONS[plan.act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        out: torch.Tensor = self.fc2(self.hidden(x))
        return out

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the input of the second Linear, ``(B, N, mlp_dim)``."""
        out: torch.Tensor = self.act(self.fc1(x))
        return out
