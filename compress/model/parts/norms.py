"""The norms of a Vision Transformer."""

from __future__ import annotations

import torch
from torch import nn

from runtime import BlockPlan, ShapePlan

EARLY_NORMS = ("norm_pre", "patch_norm")
"""Norms that stand before the residual stream."""


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
    early = name in EARLY_NORMS
    width = plan.token_dim if early else plan.embed_dim
    if plan.norm_type == "layer":
        return nn.LayerNorm(width, eps=plan.eps_of(name))
    return RmsNorm(width if early else plan.norm_dim or width, plan.eps_of(name))


def normalised(x: torch.Tensor, dim: int, eps: float, centred: bool) -> torch.Tensor:
    """Returns ``x (..., C)`` divided by its deviation, or by its root mean square where it is not centred.

    Args:
        x: values.
        dim: number that sums are divided by; what ``x`` lacks of it counts as zeros, and zeros beyond it do not count.
        eps: constant added to the variance or mean square.
        centred: whether the mean is subtracted first.
    """
    zeros: torch.Tensor | float = 0.0
    if centred:
        mean = x.sum(-1, keepdim=True) / dim
        zeros, x = (dim - x.shape[-1]) * mean.square(), x - mean
    return x * ((x.square().sum(-1, keepdim=True) + zeros) / dim + eps).rsqrt()


class InnerNorm(nn.Module):
    """LayerNorm of what attention's projection or the MLP's last Linear reads; units that were cut count as zeros.

    Args:
        width: channels.
        dim: channels before a cut; 0 stands for ``width``.
        eps: constant added to the variance.

    Ref: Wang et al. 2022 (Foundation Transformers, arXiv 2210.06423), section 3.1 (sub-LN).
    """

    def __init__(self, width: int, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim or width, eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(..., width)`` to ``(..., width)``."""
        if self.dim == x.shape[-1]:
            return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return normalised(x, self.dim, self.eps, centred=True) * self.weight + self.bias


class HeadNorm(nn.Module):
    """Normalises each head's query or key, with a weight for every dimension of every head.

    Dimensions that were cut count as zeros.

    Args:
        plan: plan of the model.
        block: widths of the block.
    """

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        self.shape, self.eps, self.centred = (block.num_heads, 1, block.qk_dim), plan.inner_eps, plan.qk_norm == "layer"
        self.dim = plan.qk_norm_dim or block.qk_dim
        self.weight = nn.Parameter(torch.ones(block.num_heads * block.qk_dim))
        self.bias = nn.Parameter(torch.zeros(block.num_heads * block.qk_dim)) if self.centred else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(B, num_heads, N, d)`` to ``(B, num_heads, N, d)``."""
        x = normalised(x, self.dim, self.eps, self.centred) * self.weight.view(self.shape)
        return x if self.bias is None else x + self.bias.view(self.shape)


def norm_readers(plan: ShapePlan) -> dict[str, tuple[str, ...]]:
    """Returns for each norm of the residual stream the Linears that read it."""
    blocks = range(len(plan.blocks))
    readers: dict[str, tuple[str, ...]] = {}
    for i in blocks:
        readers[f"blocks.{i}.norm1"] = tuple(f"blocks.{i}.attn.{part}" for part in "qkv")
        last = "norm3" if plan.double_norm else "norm2"
        readers[f"blocks.{i}.{last}"] = tuple(f"blocks.{i}.mlp.{part}" for part in mlp_inputs(plan))
    if plan.norm != "none":
        readers["norm"] = last_readers(plan)
        readers |= {f"taps.{i}.norm": (name,) for i, name in enumerate(tap_readers(plan))}
    return readers


def last_readers(plan: ShapePlan) -> tuple[str, ...]:
    """Returns the Linears that read the stream after the last block: heads, or keys and values of the pooling."""
    if plan.attn_pool:
        return "attn_pool.k", "attn_pool.v"
    return ("head", "head_dist") if plan.two_heads else ("head",)


def tap_readers(plan: ShapePlan) -> tuple[str, ...]:
    """Returns the Linears that read the stream behind the inner blocks of a grid."""
    return tuple(f"taps.{i}.head" for i in range(len(plan.grid_blocks)))


def mlp_inputs(plan: ShapePlan) -> tuple[str, ...]:
    """Returns the names of the Linears of an MLP that read the stream."""
    return ("fc1", "gate") if plan.gated_mlp else ("fc1",)
