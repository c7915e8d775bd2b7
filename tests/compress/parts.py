"""Tiny timm models with the parts that a plain Vision Transformer lacks."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from compress.model.conversion.naflex import at_size
from compress.model.load import ModelSpec
from compress.model.timm_vit import from_timm
from compress.model.vit import SlicedViT
from tests.compress.tiny import timm_model

_TOY = {"depth": 2, "embed_dim": 48, "num_heads": 2, "mlp_ratio": 2}

PARTS = {
    "attention-pool": ModelSpec("vit_base_patch16_siglip_224", 32, 16, overrides=_TOY | {"reg_tokens": 2}),
    "pool-of-prefix": ModelSpec(
        "vit_base_patch16_siglip_224", 32, 16, overrides=_TOY | {"reg_tokens": 1, "pool_include_prefix": True}
    ),
    "beit": ModelSpec("beit_base_patch16_224", 32, 8, overrides=_TOY),
    "beit-shared": ModelSpec(
        "beit_base_patch16_224",
        32,
        16,
        overrides=_TOY | {"use_shared_rel_pos_bias": True, "init_values": 0, "global_pool": "token"},
    ),
    "position-mlp": ModelSpec("vit_relpos_base_patch16_224", 32, 8, overrides=_TOY),
    "swin-position-mlp": ModelSpec("vit_relpos_base_patch16_224", 32, 8, overrides=_TOY | {"rel_pos_type": "mlp-swin"}),
    "position-table": ModelSpec("vit_relpos_base_patch16_224", 32, 8, overrides=_TOY | {"rel_pos_type": "bias"}),
    "class-token-and-position-mlp": ModelSpec("vit_relpos_base_patch16_cls_224", 32, 16, overrides=_TOY),
    "any-shape": ModelSpec("naflexvit_base_patch16_par_gap", (32, 48), 16, overrides=_TOY),
    "any-shape-pool": ModelSpec("naflexvit_base_patch16_siglip", 32, 8, overrides=_TOY),
    "any-shape-factorised": ModelSpec("naflexvit_base_patch16_parfac_gap", 32, 8, overrides=_TOY),
    "any-shape-token": ModelSpec("naflexvit_base_patch16_radio_v3", 32, 16, overrides=_TOY),
    "any-shape-channels-first": ModelSpec(
        "naflexvit_base_patch16_map", 32, 16, overrides=_TOY | {"patchify_channels_last": False}
    ),
    "post-norm": ModelSpec("vit_base_patch16_rpn_224", 32, 16, overrides=_TOY | {"class_token": True}),
    "post-norm-and-positions": ModelSpec("vit_relpos_base_patch16_rpn_224", 32, 16, overrides=_TOY),
    "parallel": ModelSpec("vit_pwee_patch16_reg1_gap_256", 32, 16, overrides=_TOY),
    "parallel-without-biases": ModelSpec(
        "vit_pwee_patch16_reg1_gap_256",
        32,
        16,
        overrides=_TOY | {"qkv_bias": False, "proj_bias": False, "init_values": 0.1},
    ),
    "rotary-and-pool": ModelSpec("vit_pe_core_tiny_patch16_384", 32, 16, overrides=_TOY),
    "stem": ModelSpec("vit_tiny_r_s16_p8_224", 64, 4, overrides=_TOY),
    "standardised-stem": ModelSpec("vit_small_r26_s32_224", 64, overrides=_TOY),
    "stem-with-means": ModelSpec("vit_small_resnet26d_224", 64, overrides=_TOY),
    "stem-of-patches": ModelSpec("vit_base_mci_224", (32, 48), overrides={"depth": 1}),
    "post-norm-eva": ModelSpec("eva02_enormous_patch14_clip_224", 28, 14, overrides=_TOY),
    "double-norm": ModelSpec("vitamin_small_224", (64, 48), overrides={"depth": 1}),
    "mlp-without-biases": ModelSpec("vit_tiny_patch16_224", 32, 16, overrides=_TOY | {"proj_bias": False}),
    "branches-side-by-side": ModelSpec("vit_small_patch16_18x2_224", 32, 16, overrides=_TOY),
    "shared-position-mlp": ModelSpec("vit_srelpos_small_patch16_224", 32, 16, overrides=_TOY),
}
"""Each differs from the others in what its graph or its conversion holds."""

NO_WAY_BACK = (
    "beit-shared",
    "position-mlp",
    "swin-position-mlp",
    "class-token-and-position-mlp",
    "shared-position-mlp",
    "post-norm-and-positions",
)
"""Those whose position bias has no place in timm's model, which computes it or shares it between blocks."""


@cache
def model_with(part: str) -> SlicedViT:
    """Returns an unpruned model with a part; tests must not change it."""
    return from_timm(timm_model_with(part))


def timm_model_with(part: str, seed: int = 0) -> Any:
    """Returns timm's own model with a part, which knows the image size that it was made for."""
    model = at_size(timm_model(PARTS[part], seed=seed), PARTS[part].img_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):  # what a BatchNorm has stored
                value.add_(torch.rand(value.shape, generator=generator))
    return model
