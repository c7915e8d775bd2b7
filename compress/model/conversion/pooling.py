"""timm's attention pooling as that of a sliced model, whose query is a constant, and back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from runtime import PoolPlan

from .inner import activation_name, unsupported_part

_PREFIX = "attn_pool."


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


def pool_to_timm(weights: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
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


def pool_plan(pool: Any, prefix: bool) -> PoolPlan:
    """Returns the widths of a timm attention pooling.

    Args:
        pool: the pooling.
        prefix: whether it reads class token and registers, too.
    """
    return PoolPlan(pool.num_heads, pool.head_dim, pool.mlp.fc1.out_features, float(pool.norm.eps), prefix)


def refuse_pool(pool: Any, act: Any, normed: bool) -> None:
    """Refuses an attention pooling that cannot be computed exactly.

    Args:
        pool: timm's pooling.
        act: activation of the blocks.
        normed: whether a norm follows the pooling.

    Raises:
        ModelError: a part of the pooling is not supported, by name.
    """
    part = refused_pool(pool)
    if part is None and normed:
        part = "attention pooling with a norm behind it"
    if part is None and activation_name(pool.mlp.act) != activation_name(act):
        part = "attention pooling with another activation than the blocks"
    if part is not None:
        raise unsupported_part(part)


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
