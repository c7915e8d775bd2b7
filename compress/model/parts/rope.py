"""Rotary positions: pairs of a query's or a key's dimensions are rotated by angles that depend on the patch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from runtime import BlockPlan, PlanError, ShapePlan


class Rope(nn.Module):
    """Rotates neighbouring pairs of each head's dimensions at patches, and leaves the tokens before them.

    The angles are constants of a fixed image size: ``cos`` and ``sin`` are buffers ``(patches, pairs)`` with the pairs
    of one head for all, or ``(patches, num_heads * pairs)`` with those of every head, head after head.

    Ref: Su et al. 2021 (RoFormer, arXiv 2104.09864), eq. 34; Heo et al. 2024 (arXiv 2403.13298) for images.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        self.prefix, self.heads = plan.num_prefix_tokens, block.num_heads if plan.rope == "per_head" else 1
        shape = (plan.num_patches, plan.rope_pairs(block))
        self.register_buffer("cos", torch.ones(shape))
        self.register_buffer("sin", torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps queries or keys ``(B, num_heads, N, d)`` to ``(B, num_heads, N, d)``."""
        own, patches = x[:, :, : self.prefix], x[:, :, self.prefix :]
        first, second = patches[..., 0::2], patches[..., 1::2]
        cos, sin = (value.view(len(value), self.heads, -1).transpose(0, 1) for value in (self.cos, self.sin))
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
        return torch.cat([own, turned], 2)


def check_tables(plan: ShapePlan, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises ``PlanError`` where a table of rotations holds anything but cosines and sines of the same angles."""
    for i in range(len(plan.blocks)) if plan.rope != "none" else ():
        cos, sin = (weights[f"blocks.{i}.attn.rope.{part}"].double() for part in ("cos", "sin"))
        off = float((cos.square() + sin.square() - 1).abs().max())
        if not off < 1e-2:
            raise PlanError(f"The rotary table of block {i} holds no rotations", got=f"off by {off:.3g}")
