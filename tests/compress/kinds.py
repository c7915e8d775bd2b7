"""Whole models of every kind that the canonical form must compute exactly: timm's families, and others by plan."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from compress.model.vit import SlicedViT, build
from runtime import PoolPlan, StemOp
from tests.compress.tiny import ARCHITECTURES, TINY_PLAN, sliced_model, tiny_vit

STEM = (
    StemOp("conv", (-1,), 8, (3, 3), (2, 2), (0, 1, 1, 0)),
    StemOp("group_norm", (0,), 8, groups=2),
    StemOp("relu", (1,), 8),
    StemOp("max_pool", (2,), 8, (3, 3), (2, 2), (0, 1, 1, 1)),
    StemOp("conv", (3,), 8, (2, 2), (1, 1), (1, 0, 0, 1)),
    StemOp("silu", (4,), 8),
    StemOp("add", (5, 3), 8),
    StemOp("gelu", (6,), 8),
)
MEAN_STEM = (
    StemOp("conv", (-1,), 8, (3, 3), (2, 2), (1, 1, 1, 1)),
    StemOp("layer_norm", (0,), 8, eps=1e-6),
    StemOp("conv", (1,), 8, (3, 3), (1, 1), (1, 1, 1, 1), groups=8),
    StemOp("gelu", (2,), 8),
    StemOp("mean_pool", (3,), 8, (3, 3), (2, 2), (1, 1, 1, 1)),
)
PLANS = {
    "no-norm": replace(TINY_PLAN, pooling="avg", norm="none"),
    "after-pool": replace(TINY_PLAN, pooling="avg_all", norm="after_pool", act="relu"),
    "no-biases": replace(TINY_PLAN, qkv_bias=False, proj_bias=False, patch_bias=False),
    "no-positions": replace(TINY_PLAN, pos_embed="none", act="silu"),
    "pre-average": replace(TINY_PLAN, norm_pre=True, pooling="avg_all", act="quick_gelu", qkv_bias=False),
    "distilled-after-pool": replace(TINY_PLAN, dist_token=True, norm="after_pool", proj_bias=False),
    "token-and-average": replace(TINY_PLAN, pooling="token_and_avg", reg_tokens=2, act="gelu_tanh"),
    "attention-pool": replace(TINY_PLAN, pooling="map", reg_tokens=2, attn_pool=PoolPlan(2, 12, 20, 1e-5)),
    "position-bias": replace(TINY_PLAN, position_bias=True, pooling="avg", norm="after_pool", layer_scale=True),
    "token-and-bias": replace(TINY_PLAN, position_bias=True, qkv_bias=False),
    "post-norm": replace(TINY_PLAN, block_kind="post", pooling="avg_all", reg_tokens=1),
    "post-norm-token": replace(TINY_PLAN, block_kind="post", norm_pre=True, qkv_bias=False, proj_bias=False),
    "parallel": replace(TINY_PLAN, block_kind="parallel", layer_scale=True),
    "parallel-average": replace(TINY_PLAN, block_kind="parallel", pooling="avg", norm="after_pool", norm_pre=True),
    "stem": replace(TINY_PLAN, img_size=(16, 24), patch_size=(2, 2), stem=STEM),
    "stem-before-norm": replace(TINY_PLAN, img_size=(16, 24), patch_size=(1, 1), stem=STEM, norm_pre=True),
    "double-norm": replace(
        TINY_PLAN, double_norm=True, gated_mlp=True, img_size=(16, 24), patch_size=(2, 2), stem=MEAN_STEM
    ),
    "pool-without-norm": replace(TINY_PLAN, pooling="map", norm="none", attn_pool=PoolPlan(1, 16, 8, 1e-6, True)),
    "all-parts": replace(
        TINY_PLAN,
        img_size=(8, 16),
        reg_tokens=2,
        norm_pre=True,
        layer_scale=True,
        pooling="avg",
        pos_embed="patches",
        act="gelu_tanh",
    ),
}
KINDS = (*ARCHITECTURES, *PLANS)
WITH_RMS = tuple(
    key for key in KINDS if key not in ("no-norm", "pool-without-norm", "post-norm", "post-norm-token", "double-norm")
)
"""The kinds whose canonical form has RMSNorms; a model without a last norm keeps its LayerNorms."""


@cache
def model_of_kind(key: str) -> SlicedViT:
    """Returns an unpruned model of a kind with random weights; tests must not change it."""
    return sliced_model(key) if key in ARCHITECTURES else tiny_vit(PLANS[key])


def in_float64(model: SlicedViT) -> SlicedViT:
    """Returns a copy in float64."""
    return build(model.plan, model.state_dict(), torch.float64)


def distance(one: SlicedViT, other: SlicedViT, images: torch.Tensor) -> float:
    """Returns the largest difference between the logits of two models, relative to the largest logit."""
    with torch.no_grad():
        wanted = other(images)
        return float((one(images) - wanted).abs().max() / wanted.abs().max())
