"""Plans with rotary positions, gates, and norms inside attention and MLP, and models of them."""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.model.vit import SlicedViT
from runtime import BlockPlan, ShapePlan

_VIT = ShapePlan((32, 32), (8, 8), 3, 10, 48, (BlockPlan(3, 16, 16, 96), BlockPlan(2, 8, 24, 64)), 0.25)
MODERN = {
    "gated": replace(_VIT, gated_mlp=True, act="silu"),
    "rope": replace(_VIT, rope="shared", reg_tokens=2, pos_embed="patches"),
    "rope-per-head": replace(_VIT, rope="per_head", class_token=False, pooling="avg", norm="after_pool"),
    "sub-norms": replace(
        _VIT,
        attn_norm=True,
        mlp_norm=True,
        gated_mlp=True,
        act="silu",
        rope="shared",
        mlp_norm_dim=110,
        pooling="avg_all",
    ),
    "sub-norms-cut": replace(_VIT, attn_norm=True, mlp_norm=True, attn_norm_dim=64, mlp_norm_dim=92, act="relu"),
    "qk-layer": replace(_VIT, qk_norm="layer", qk_norm_dim=20),
    "qk-rms-rope": replace(
        _VIT,
        qk_norm="rms",
        qk_norm_dim=24,
        rope="shared",
        gated_mlp=True,
        act="gelu_tanh",
        norm_type="rms",
        norm_dim=64,
    ),
    "patch-norm": replace(_VIT, patch_norm=True, pooling="avg", act="quick_gelu", gated_mlp=True),
    "patch-norm-rms": replace(
        _VIT, patch_norm=True, norm_type="rms", pre_dim=32, class_token=False, pooling="avg", gated_mlp=True, act="relu"
    ),
}


def modern_model(plan: ShapePlan, seed: int = 0) -> SlicedViT:
    """A model whose every weight is random and matters, with rotations by random angles."""
    generator = torch.Generator().manual_seed(seed)
    model = SlicedViT(plan).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim < 2 else weight[0].numel() ** -0.5
            centre = 1.0 if weight.ndim == 1 and "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + spread * torch.randn(weight.shape, generator=generator))
        for block in model.blocks if plan.rope != "none" else ():
            angles = 3 * torch.randn(block.attn.rope.cos.shape, generator=generator)
            block.attn.rope.cos.copy_(angles.cos())
            block.attn.rope.sin.copy_(angles.sin())
    return model
