"""Tiny plans with the parts that a plain Vision Transformer lacks."""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.model.vit import SlicedViT
from runtime import BlockPlan, PoolPlan, ShapePlan
from tests.compress.kinds import MEAN_STEM, STEM

_VIT = ShapePlan((32, 32), (8, 8), 3, 10, 48, (BlockPlan(3, 16, 16, 96), BlockPlan(2, 8, 24, 64)), 0.25)
NORM_WEIGHTS = tuple(f"{norm}.weight" for norm in ("norm1", "norm2", "norm3", "norm", "norm_pre"))
"""Endings of the names of norms' weights."""

PART_PLANS = {
    "double-norm": replace(_VIT, double_norm=True, stem=MEAN_STEM, patch_size=(2, 2), img_size=(32, 16), pooling="avg"),
    "attention-pool": replace(
        _VIT, pooling="map", reg_tokens=2, act="gelu_tanh", attn_pool=PoolPlan(3, 16, 40, 1e-5), class_token=False
    ),
    "pool-of-all-tokens": replace(
        _VIT, pooling="map", attn_pool=PoolPlan(2, 16, 24, 1e-6, True), norm="none", act="relu"
    ),
    "texts": replace(_VIT, norm_pre=True, act="quick_gelu", patch_bias=False, norm_eps=1e-5, text_dim=40),
    "texts-and-pool": replace(_VIT, pooling="map", attn_pool=PoolPlan(3, 16, 40, 1e-5), text_dim=48),
    "unit-vector-and-pool": replace(_VIT, pooling="map", attn_pool=PoolPlan(3, 16, 40, 1e-5), output="unit_vector"),
    "position-bias": replace(
        _VIT, position_bias=True, class_token=False, pooling="avg", norm="after_pool", layer_scale=True
    ),
    "position-bias-and-token": replace(_VIT, position_bias=True, pos_embed="none"),
    "post-norm": replace(_VIT, block_kind="post", pooling="avg_all", norm="after_pool"),
    "post-norm-and-token": replace(_VIT, block_kind="post", qkv_bias=False, norm_pre=True, act="silu"),
    "parallel": replace(_VIT, block_kind="parallel", layer_scale=True, norm_eps=1e-5),
    "parallel-average": replace(_VIT, block_kind="parallel", pooling="avg", norm="after_pool"),
    "stem": replace(_VIT, stem=STEM, patch_size=(2, 2), img_size=(32, 16)),
    "stem-and-average": replace(
        _VIT, stem=STEM, patch_size=(1, 1), img_size=(16, 16), class_token=False, pooling="avg", norm="after_pool"
    ),
}


def draw_tables(model: SlicedViT, generator: torch.Generator) -> None:
    """Gives the position biases and the vectors of texts of a model random values, as large as those of CLIP."""
    with torch.no_grad():
        for name, table in model.named_buffers():
            if name.endswith("position_bias"):
                table.copy_(torch.randn(table.shape, generator=generator))
            elif name.startswith("text."):
                table.copy_(torch.randn(table.shape, generator=generator) * (100 * table.shape[-1] ** -0.5))
