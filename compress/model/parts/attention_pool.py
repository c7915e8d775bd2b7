"""Attention pooling: one learnt query looks at the last tokens, and the classifier reads what it finds."""

from __future__ import annotations

import torch
from torch import nn

from runtime import ShapePlan

from .mlp import ACTIVATIONS


class AttentionPool(nn.Module):
    """Multi-head attention of one constant query over the tokens, a projection, and an MLP with a skip around it.

    The query is learnt, so that it is the same for every image: ``q`` holds what a Linear would make of the latent
    vector. It computes ``p = proj(softmax(q k^T / sqrt(d)) v)`` and returns ``p + mlp(norm(p))``.

    Args:
        plan: plan of the model, with ``attn_pool``.

    Ref: Zhai et al. 2022 (Scaling Vision Transformers, arXiv 2106.04560), section 3.3: a multihead attention pooling
        (MAP) head after Lee et al. 2019 (Set Transformer, arXiv 1810.00825), eq. 11.
    """

    def __init__(self, plan: ShapePlan) -> None:
        super().__init__()
        assert plan.attn_pool is not None
        own, c = plan.attn_pool, plan.embed_dim
        self.num_heads, self.head_width = own.num_heads, own.head_width
        self.skip = 0 if own.prefix else plan.num_prefix_tokens
        self.q = nn.Parameter(torch.zeros(own.dim))
        self.k, self.v = nn.Linear(c, own.dim), nn.Linear(c, own.dim)
        self.proj = nn.Linear(own.dim, own.dim)
        self.norm = nn.LayerNorm(own.dim, eps=own.norm_eps)
        self.fc1, self.fc2 = nn.Linear(own.dim, own.mlp_dim), nn.Linear(own.mlp_dim, own.dim)
        self.act = ACTIVATIONS[plan.act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps all tokens ``(B, N, C)`` to the pooled feature ``(B, dim)``."""
        x = x[:, self.skip :]
        b, n, _ = x.shape
        heads, d = self.num_heads, self.head_width
        q = self.q.view(1, heads, 1, d).expand(b, -1, -1, -1)
        k = self.k(x).view(b, n, heads, d).transpose(1, 2)
        v = self.v(x).view(b, n, heads, d).transpose(1, 2)
        weights = ((q * d**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        pooled: torch.Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, heads * d))
        out: torch.Tensor = pooled + self.fc2(self.act(self.fc1(self.norm(pooled))))
        return out
