"""Self-attention of a transformer block."""

from __future__ import annotations

import torch
from torch import nn

from runtime import BlockPlan, ShapePlan

from .norms import HeadNorm, InnerNorm
from .rope import Rope


class Attention(nn.Module):
    """Multi-head self-attention whose value width may differ from its query and key width.

    Queries and keys may be normalised and rotated, and what the projection reads may be normalised.
    """

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        c, heads = plan.embed_dim, block.num_heads
        self.num_heads, self.qk_dim, self.v_dim, self.scale = heads, block.qk_dim, block.v_dim, plan.attn_scale
        self.q = nn.Linear(c, heads * block.qk_dim, bias=plan.qkv_bias)
        self.k = nn.Linear(c, heads * block.qk_dim, bias=plan.qkv_bias)
        self.v = nn.Linear(c, heads * block.v_dim, bias=plan.qkv_bias)
        self.q_norm = HeadNorm(plan, block) if plan.qk_norm != "none" else None
        self.k_norm = HeadNorm(plan, block) if plan.qk_norm != "none" else None
        self.rope = Rope(plan, block) if plan.rope != "none" else None
        self.norm = InnerNorm(heads * block.v_dim, plan.attn_norm_dim, plan.inner_eps) if plan.attn_norm else None
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
        return self.averaged(*self.looked(x), x)

    def looked(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns queries and keys as they are multiplied, ``(B, num_heads, N, qk_dim)`` each."""
        q, k = (self._heads(linear(x), self.qk_dim) for linear in (self.q, self.k))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return (q, k) if self.rope is None else (self.rope(q), self.rope(k))

    def averaged(self, q: torch.Tensor, k: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Returns what the projection reads, from queries and keys as they are multiplied and the block's input."""
        v = self._heads(self.v(x), self.v_dim)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        weights = (scores if self.position_bias is None else scores + self.position_bias).softmax(dim=-1)
        out: torch.Tensor = (weights @ v).transpose(1, 2).flatten(2)
        return out if self.norm is None else self.norm(out)

    def _heads(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """Maps ``(B, N, num_heads * width)`` to ``(B, num_heads, N, width)``."""
        return x.view(*x.shape[:2], self.num_heads, width).transpose(1, 2)
