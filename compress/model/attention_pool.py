"""Attention pooling: one learnt query looks at the last tokens, and the classifier reads what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from runtime import ShapePlan

if TYPE_CHECKING:
    from .vit import Axis

_PREFIX = "attn_pool."


class AttentionPool(nn.Module):
    """Multi-head attention of one constant query over the tokens, a projection, and an MLP with a skip around it.

    The query is learnt, so that it is the same for every image: ``q`` holds what a Linear would make of the latent
    vector. It computes ``p = proj(softmax(q k^T / sqrt(d)) v)`` and returns ``p + mlp(norm(p))``.

    Args:
        plan: plan of the model, with ``attn_pool``.
        act: activation of the MLP.

    Ref: Zhai et al. 2022 (Scaling Vision Transformers, arXiv 2106.04560), section 3.3: a multihead attention pooling
        (MAP) head after Lee et al. 2019 (Set Transformer, arXiv 1810.00825), eq. 11.
    """

    def __init__(self, plan: ShapePlan, act: Any) -> None:
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
        self.act = act

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


def pool_axes(plan: ShapePlan, embed: Axis) -> dict[str, tuple[Axis | None, ...]]:
    """Returns the prunable axis of each dimension of the pooling's parameters; it has none of its own."""
    if plan.attn_pool is None:
        return {}
    axes: dict[str, tuple[Axis | None, ...]] = {f"{_PREFIX}q": (None,)}
    for part in ("k", "v", "proj", "fc1", "fc2"):
        axes[f"{_PREFIX}{part}.weight"] = (None, embed if part in "kv" else None)
        axes[f"{_PREFIX}{part}.bias"] = (None,)
    axes[f"{_PREFIX}norm.weight"] = axes[f"{_PREFIX}norm.bias"] = (None,)
    return axes


def pool_from_timm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights whose timm attention pooling has the names and the constant query of ``AttentionPool``."""
    if f"{_PREFIX}latent" not in weights:
        return weights
    w = {name: value for name, value in weights.items() if not name.startswith(_PREFIX)}
    own = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    latent = own["latent"][0, 0]
    if "q.weight" in own:
        latent = F.linear(latent.double(), own["q.weight"].double(), own["q.bias"].double()).to(latent.dtype)
    w[f"{_PREFIX}q"] = latent
    for kind in ("weight", "bias"):
        w[f"{_PREFIX}k.{kind}"], w[f"{_PREFIX}v.{kind}"] = own[f"kv.{kind}"].chunk(2)
        for part, name in (("proj", "proj"), ("norm", "norm"), ("mlp.fc1", "fc1"), ("mlp.fc2", "fc2")):
            w[f"{_PREFIX}{name}.{kind}"] = own[f"{part}.{kind}"]
    return w


def pool_to_timm(weights: dict[str, torch.Tensor], wanted: Any) -> dict[str, torch.Tensor]:
    """Returns weights whose attention pooling has timm's names; the query's Linear gets it as its bias.

    Args:
        weights: weights by name; without an attention pooling of ours they are returned as they are.
        wanted: timm's parameter names.
    """
    if f"{_PREFIX}q" not in weights:
        return weights
    w = {name: value for name, value in weights.items() if not name.startswith(_PREFIX)}
    own = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    if f"{_PREFIX}q.weight" in wanted:
        size = len(own["q"])
        w[f"{_PREFIX}latent"] = own["q"].new_zeros(1, 1, size)
        w[f"{_PREFIX}q.weight"], w[f"{_PREFIX}q.bias"] = own["q"].new_zeros(size, size), own["q"]
    else:
        w[f"{_PREFIX}latent"] = own["q"][None, None]
    for kind in ("weight", "bias"):
        w[f"{_PREFIX}kv.{kind}"] = torch.cat([own[f"k.{kind}"], own[f"v.{kind}"]])
        for part, name in (("proj", "proj"), ("norm", "norm"), ("mlp.fc1", "fc1"), ("mlp.fc2", "fc2")):
            w[f"{_PREFIX}{part}.{kind}"] = own[f"{name}.{kind}"]
    return w


def refused_pool(pool: Any) -> str | None:
    """Returns the part of a timm attention pooling that cannot be computed exactly; None if there is none."""
    if type(pool).__name__ != "AttentionPoolLatent":
        return f"the pooling {type(pool).__name__}"
    if pool.latent_len != 1 or pool.pool != "token" or pool.pos_embed is not None:
        return "attention pooling with several queries or with positions"
    if not all(isinstance(norm, nn.Identity) for norm in (pool.q_norm, pool.k_norm)):
        return "attention pooling with query/key normalisation"
    if pool.mlp is None or not isinstance(pool.norm, nn.LayerNorm) or pool.norm.bias is None or pool.kv.bias is None:
        return "attention pooling without an MLP, a LayerNorm or biases"
    width = pool.num_heads * pool.head_dim
    return "attention pooling of another width" if pool.proj.out_features != width else None
