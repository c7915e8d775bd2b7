"""A transformer block: attention and an MLP on a residual stream."""

from __future__ import annotations

import torch
from torch import nn

from runtime import ShapePlan

from .attention import Attention
from .mlp import Mlp
from .norms import norm_of


class Block(nn.Module):
    """Transformer block of one of the kinds of ``ShapePlan.block_kind``, with LayerScale where the plan has it."""

    def __init__(self, plan: ShapePlan, index: int) -> None:
        super().__init__()
        c, block, self.kind = plan.embed_dim, plan.blocks[index], plan.block_kind
        self.norm1 = norm_of(plan, f"blocks.{index}.norm1")
        self.attn = Attention(plan, block)
        self.norm2 = norm_of(plan, f"blocks.{index}.norm2")
        self.norm3 = norm_of(plan, f"blocks.{index}.norm3") if plan.double_norm else None
        self.mlp = Mlp(plan, block)
        self.gamma1 = nn.Parameter(torch.ones(c)) if plan.layer_scale else None
        self.gamma2 = nn.Parameter(torch.ones(c)) if plan.layer_scale else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        after = x + self.attention_written(self.attn(self.attention_read(x)))
        return after + self.mlp_written(self.mlp(self.mlp_read(after, x)))

    def attention_read(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the attention reads of the stream ``(B, N, C)``."""
        read: torch.Tensor = x if self.kind == "post" else self.norm1(x)
        return read

    def mlp_read(self, after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Returns what the MLP reads of the stream after the attention, or before it."""
        if self.kind == "post":
            return after
        read: torch.Tensor = self.norm2(before if self.kind == "parallel" else after)
        return read if self.norm3 is None else self.norm3(read)

    def attention_written(self, out: torch.Tensor) -> torch.Tensor:
        """Returns what the projection's output adds to the stream."""
        return self._written(out, self.norm1, self.gamma1)

    def mlp_written(self, out: torch.Tensor) -> torch.Tensor:
        """Returns what the MLP's output adds to the stream."""
        return self._written(out, self.norm2, self.gamma2)

    def _written(self, out: torch.Tensor, norm: nn.Module, gamma: torch.Tensor | None) -> torch.Tensor:
        if self.kind == "post":
            normed: torch.Tensor = norm(out)
            return normed
        return out if gamma is None else out * gamma
