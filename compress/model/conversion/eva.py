"""Converts timm's class ``Eva`` (EVA02, DINOv3, Perception Encoder and others) to the form of ``SlicedViT``."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

from runtime import NormPlace, ShapePlan

from .inner import Weights, block_plan, epsilons, inner_options, inner_weights, is_absent, norm_kind, unsupported_part
from .needs import EvaBlock, EvaBlockPostNorm, PatchEmbed
from .pooling import pool_plan, refuse_pool


def plan_of_eva(model: Any) -> ShapePlan:
    """Returns the plan of an ``Eva``.

    Raises:
        ModelError: a part of the model is not supported, by name.
        PlanError: the image does not divide into patches, or a width is not a multiple of 8.
    """
    _refuse_eva(model)
    embed, first, pool = model.patch_embed, model.blocks[0], model.attn_pool
    norm: NormPlace = (
        "after_pool" if not is_absent(model.fc_norm) else "none" if is_absent(model.norm) else "before_pool"
    )
    norms = [n for n in (model.norm_pre, model.norm, model.fc_norm) if not is_absent(n)]
    kind = norm_kind([*norms, *(n for block in model.blocks for n in (block.norm1, block.norm2))])
    no_positions: Literal["none"] = "none"
    qkv = first.attn.qkv if first.attn.qkv is not None else first.attn.q_proj
    return ShapePlan(
        img_size=tuple(embed.img_size),
        patch_size=tuple(embed.patch_size),
        in_chans=embed.proj.in_channels,
        num_classes=model.head.out_features,
        embed_dim=model.embed_dim,
        blocks=tuple(block_plan(block) for block in model.blocks),
        attn_scale=float(first.attn.scale),
        class_token=model.cls_token is not None,
        reg_tokens=0 if model.reg_token is None else model.reg_token.shape[1],
        pos_embed=no_positions if model.pos_embed is None else "patches" if model.no_embed_class else "all",
        pooling="map" if pool is not None else "token" if model.global_pool == "token" else "avg",
        norm_pre=not is_absent(model.norm_pre),
        norm=norm,
        norm_eps=epsilons([model.norm_pre], model.blocks, [model.norm, model.fc_norm]),
        qkv_bias=qkv.bias is not None or getattr(first.attn, "q_bias", None) is not None,
        proj_bias=first.attn.proj.bias is not None,
        patch_bias=embed.proj.bias is not None,
        layer_scale=getattr(first, "gamma_1", None) is not None,
        block_kind="post" if type(first) is EvaBlockPostNorm else "pre",
        norm_type=kind,
        pre_dim=model.embed_dim if kind == "rms" and not is_absent(model.norm_pre) else 0,
        attn_pool=None if pool is None else pool_plan(pool, prefix=True),
        rope="none" if model.rope is None else "per_head" if model.rope_mixed else "shared",
        **inner_options(model.blocks),
    )


def eva_weights(model: Any) -> Weights:
    """Returns the weights of an ``Eva`` named as in ``SlicedViT``, with its rotary positions as tables."""
    w: Weights = {}
    for name, value in model.state_dict().items():
        if not name.startswith(("blocks.", "rope.")):
            w[name.replace("patch_embed.proj.", "patch_embed.").replace("fc_norm.", "norm.")] = value
    for i, block in enumerate(model.blocks):
        own = inner_weights(block, model.rope is not None and block.attn.rotate_half)
        for norm in ("norm1", "norm2"):
            own |= {f"{norm}.{name}": value for name, value in getattr(block, norm).named_parameters()}
        if getattr(block, "gamma_1", None) is not None:
            own["gamma1"] = block.gamma_1
            own["gamma2"] = torch.ones_like(block.gamma_1) if block.gamma_2 is None else block.gamma_2
        w |= {f"blocks.{i}.{name}": value.detach() for name, value in own.items()}
    return w | rope_tables(model)


def rope_tables(model: Any) -> Weights:
    """Returns cosines and sines of every block's rotations, ``(patches, pairs)``; those of all heads stand in a row.

    Raises:
        ModelError: the two dimensions of a pair have different angles, or not all dimensions are rotated.
    """
    if model.rope is None:
        return {}
    # in training, timm moves the coordinates at random
    rope = copy.deepcopy(model.rope).eval()
    with torch.no_grad():
        every = rope.get_embed(shape=tuple(model.patch_embed.grid_size)).double()
    tables: Weights = {}
    for i, block in enumerate(model.blocks):
        sin, cos = (every[i] if model.rope_mixed else every[None]).chunk(2, -1)
        for part, value in (("cos", cos), ("sin", sin)):
            pairs = (-1, 2) if not block.attn.rotate_half else (2, -1)
            if value.shape[-1] != block.attn.head_dim:
                raise unsupported_part("rotary positions of some dimensions alone")
            split = value.unflatten(-1, pairs)
            one, other = split.unbind(-1 if not block.attn.rotate_half else -2)
            if not torch.equal(one, other):
                raise unsupported_part("rotary positions whose pairs have two angles")
            tables[f"blocks.{i}.attn.rope.{part}"] = one.transpose(0, 1).flatten(1).float()
    return tables


def _refuse_eva(model: Any) -> None:
    if type(model.patch_embed) is not PatchEmbed or not is_absent(model.patch_embed.norm):
        raise unsupported_part("this patch embedding")
    if len(model.blocks) == 0:
        raise unsupported_part("no transformer block", "at least one")
    for block in model.blocks:
        if type(block) not in (EvaBlock, EvaBlockPostNorm) or type(block) is not type(model.blocks[0]):
            raise unsupported_part(f"the block {type(block).__name__}")
    if model.global_pool not in ("token", "avg", "map"):
        raise unsupported_part(f"'{model.global_pool}' pooling", "pooling by class token, by average or by attention")
    if model.attn_pool is not None:
        refuse_pool(model.attn_pool, model.blocks[0].mlp.act, not is_absent(model.fc_norm))
    if not is_absent(model.norm) and not is_absent(model.fc_norm):
        raise unsupported_part("norms before and after pooling")
    if not isinstance(model.head, nn.Linear):
        raise unsupported_part("a model without a linear classifier")
