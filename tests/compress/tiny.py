"""Models and datasets small enough for a test: real timm architectures at toy widths, random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import timm
import torch

from compress.data.dataset import ArrayImages, Dataset
from compress.model.load import ModelSpec
from compress.model.slicing import keep_all, slice_vit
from compress.model.timm_vit import from_timm
from compress.model.vit import SlicedViT
from runtime import BlockPlan, Preprocessing, ShapePlan

_TOY = {"depth": 2, "embed_dim": 48, "num_heads": 2, "mlp_ratio": 2}

# The supported families; each differs from the others in what its graph holds.
ARCHITECTURES = {
    "vit": ModelSpec("vit_tiny_patch16_224", 32, 16, overrides=_TOY),
    "deit-distilled": ModelSpec("deit_tiny_distilled_patch16_224", 32, 16, overrides=_TOY),
    "deit3": ModelSpec("deit3_small_patch16_224", 32, 16, overrides=_TOY | {"num_heads": 3, "depth": 3}),
    "dinov2-reg": ModelSpec("vit_small_patch14_reg4_dinov2", 56, 14, overrides=_TOY),
    "avg-pool": ModelSpec(
        "vit_small_patch16_224", 32, 8, overrides=_TOY | {"global_pool": "avg", "class_token": False}
    ),
    "clip": ModelSpec("vit_base_patch32_clip_quickgelu_224", 64, 32, overrides=_TOY),
    "wee-gap": ModelSpec("vit_wee_patch16_reg1_gap_256", 32, 16, overrides=_TOY | {"num_heads": 3}),
}

MODERN = {
    "eva02": ModelSpec("eva02_tiny_patch14_224", 28, 14, overrides=_TOY),
    "eva02-clip": ModelSpec("eva02_base_patch16_clip_224", 32, 16, overrides=_TOY | {"mlp_ratio": 1.625}),
    "dinov3": ModelSpec("vit_small_patch16_dinov3_qkvb", 32, 16, overrides=_TOY | {"num_heads": 3}),
    "perception": ModelSpec("vit_pe_spatial_tiny_patch16_512", 32, 16, overrides=_TOY),
    "rope-mixed": ModelSpec("vit_small_patch16_rope_mixed_224", 32, 16, overrides=_TOY),
    "sapiens2": ModelSpec("vit_base_patch16_sapiens2", 32, 16, overrides=_TOY | {"num_kv_heads": 1}),
    "dinov2-giant": ModelSpec("vit_giant_patch14_dinov2", 28, 14, overrides=_TOY),
    "aimv2": ModelSpec("aimv2_large_patch14_224", 28, 14, overrides=_TOY),
    "beit3": ModelSpec("beit3_base_patch16_224", 32, 16, overrides=_TOY),
    "qk-norm": ModelSpec("vit_tiny_patch16_224", 32, 16, overrides=_TOY | {"qk_norm": True}),
}
"""Families with rotary positions, gates, RMSNorms and norms inside attention and MLP."""


def timm_model(spec: ModelSpec, num_classes: int = 5, seed: int = 0) -> Any:
    """Returns timm's own model of ``spec`` in evaluation mode, no parameter left at a degenerate value."""
    options = {"img_size": spec.img_size, "patch_size": spec.patch_size, "in_chans": spec.in_chans}
    options = {name: value for name, value in options.items() if value is not None} | dict(spec.overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(spec.name, pretrained=False, num_classes=num_classes, **options)
        randomise(model)
    return model.eval()


def randomise(model: torch.nn.Module) -> None:
    """Gives every parameter random values under which outputs are of order 1."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and name.endswith("weight"):
                value.copy_(torch.randn_like(value) / value[0].numel() ** 0.5)
            elif value.ndim > 1:
                value.copy_(torch.randn_like(value) / 2)
            else:
                value.add_(0.3 * torch.randn_like(value))
        for name, value in model.named_buffers():
            if name.endswith("position_bias"):
                value.copy_(torch.randn_like(value))


@cache
def sliced_model(key: str) -> SlicedViT:
    """Returns an unpruned model of ``ARCHITECTURES[key]`` or ``MODERN[key]``; tests must not change it."""
    return from_timm(timm_model((ARCHITECTURES | MODERN)[key]))


def images_for(plan: ShapePlan, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Returns random images ``(count, C, H, W)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, plan.in_chans, *plan.img_size, generator=generator)


TINY_PLAN = ShapePlan(
    img_size=(8, 8),
    patch_size=(4, 4),
    in_chans=1,
    num_classes=3,
    embed_dim=16,
    blocks=(BlockPlan(2, 16, 8, 24), BlockPlan(1, 8, 16, 16)),
    attn_scale=0.25,
)


def tiny_vit(plan: ShapePlan = TINY_PLAN, seed: int = 0) -> SlicedViT:
    """Returns a small model of ``plan`` with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SlicedViT(plan)
        randomise(model)
    return slice_vit(model, keep_all(plan))


SPEC = Preprocessing(8, 8, 1, (0.5,), (0.25,), "bilinear")


def toy_data(count: int = 60, seed: int = 0, classes: int = 3) -> Dataset:
    """Returns 8x8 grayscale pictures whose class is which third of the rows is bright; half train, rest shared out."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    pixels = generator.integers(0, 60, (count, 8, 8))
    for i, label in enumerate(labels):
        pixels[i, 3 * label : 3 * label + 2] += 150
    every = np.arange(count, dtype=np.int64)
    half, quarter = count // 2, count // 4
    return Dataset(
        "toy",
        tuple(f"row{c}" for c in range(classes)),
        1,
        (8, 8),
        False,
        ArrayImages(pixels.astype(np.uint8)),
        labels,
        every[:half],
        every[half : half + quarter],
        every[half + quarter :],
    )


def mirrored(data: Dataset) -> Dataset:
    """Returns ``data`` as one whose pictures may be mirrored."""
    return replace(data, mirror=True)
