"""Self-attention of a transformer block."""

from __future__ import annotations

import torch
from torch import nn

from runtime import BlockPlan, ShapePlan


class Attention(nn.Module):
    """Multi-head self-attention whose value width may differ from its query and key width."""

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        c, heads = plan.embed_dim, block.num_heads
        self.num_heads, self.qk_dim, self.v_dim, self.scale = heads, block.qk_dim, block.v_dim, plan.attn_scale
        self.q = nn.Linear(c, heads * block.qk_dim, bias=plan.qkv_bias)
        self.k = nn.Linear(c, heads * block.qk_dim, bias=plan.qkv_bias)
        self.v = nn.Linear(c, heads * block.v_dim, bias=plan.qkv_bias)
        self.proj = nn.Linear(heads * block.v_dim, c, bias=plan.proj_bias)
        # a constant, which no training changes
        table = torch.zeros(heads, plan.num_tokens, plan.num_tokens) if plan.position_bias else None
        self.register_buffer("position_bias", table)

    position_bias: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        out: torch.Tensor = self.proj(self.mixed(x))
        return out

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the projection reads: the heads' averages of values, ``(B, N, num_heads * v_dim)``."""
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.qk_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.num_heads, self.qk_dim).transpose(1, 2)
        v = self.v(x).view(b, n, self.num_heads, self.v_dim).transpose(1, 2)
        out: torch.Tensor = (self.shares(q, k) @ v).transpose(1, 2).reshape(b, n, self.num_heads * self.v_dim)
        return out

    def shares(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Returns the weights of the values, ``(B, H, N, N)``, of queries and keys ``(B, H, N, d)``."""
        scores = (q * self.scale) @ k.transpose(-2, -1)
        return (scores if self.position_bias is None else scores + self.position_bias).softmax(dim=-1)
