"""A transformer block: attention and an MLP on a residual stream."""

from __future__ import annotations

import torch
from torch import nn

from runtime import ShapePlan

from .attention import Attention
from .mlp import Mlp
from .norms import norm_of


class Block(nn.Module):
    """Pre-norm transformer block, with LayerScale where the plan has it."""

    def __init__(self, plan: ShapePlan, index: int) -> None:
        super().__init__()
        c, block = plan.embed_dim, plan.blocks[index]
        self.norm1 = norm_of(plan, f"blocks.{index}.norm1")
        self.attn = Attention(plan, block)
        self.norm2 = norm_of(plan, f"blocks.{index}.norm2")
        self.mlp = Mlp(plan, block)
        self.gamma1 = nn.Parameter(torch.ones(c)) if plan.layer_scale else None
        self.gamma2 = nn.Parameter(torch.ones(c)) if plan.layer_scale else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        attended: torch.Tensor = self.attn(self.norm1(x))
        x = x + (attended if self.gamma1 is None else attended * self.gamma1)
        transformed: torch.Tensor = self.mlp(self.norm2(x))
        return x + (transformed if self.gamma2 is None else transformed * self.gamma2)
