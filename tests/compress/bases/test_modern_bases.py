"""Best bases, rotations and canonical form of models with rotary positions, gates and inner norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress.bases.analysis import analyse
from compress.bases.rotation import rotated_model
from compress.model.canonical import canonical, plain_norms
from compress.model.half_range import scaled_stream
from compress.model.slicing import plan_of
from compress.model.vit import SlicedViT
from compress.search.uniform import most_important
from tests.compress.kinds import distance, in_float64
from tests.compress.tiny import MODERN, TINY_PLAN, images_for, sliced_model, tiny_vit

PATCH_NORM = replace(TINY_PLAN, patch_norm=True, attn_norm=True, gated_mlp=True, act="relu")
"""A LayerNorm of patches, which no published model has."""


def model_of(key: str) -> SlicedViT:
    return tiny_vit(PATCH_NORM) if key == "patch-norm" else sliced_model(key)


@pytest.mark.parametrize("key", [*MODERN, "patch-norm"])
def test_canonical_and_rotated_forms_compute_the_same(key: str) -> None:
    model = in_float64(model_of(key))
    images = images_for(model.plan).double()
    forms = [canonical(model), rotated_model(model, 3), rotated_model(model, 3, layer_norms=True)]
    forms += [plain_norms(model)] if model.plan.norm_type == "layer" else []
    forms += [scaled_stream(model, 0.25, 0.5)]
    for form in forms:
        assert distance(form, model, images) < 1e-10


@pytest.mark.parametrize("key", [*MODERN, "patch-norm"])
def test_the_best_bases_compute_the_same_and_can_be_cut(key: str) -> None:
    model = model_of(key)
    images = images_for(model.plan, 40)
    found = analyse(model, images)
    assert distance(found.model, model, images[:4]) < 1e-4
    heads = model.plan.blocks[0].qk_dim
    blocks = tuple(replace(block, qk_dim=heads // 2 // 8 * 8 or 8) for block in model.plan.blocks)
    kept = most_important(found.model.plan, found.importance, replace(found.model.plan, blocks=blocks))
    assert plan_of(found.model.plan, kept).blocks == blocks
    assert all(dims == tuple(range(blocks[0].qk_dim)) for block in kept.blocks for dims in block.qk)
    small, images = found.cut(kept), images[:4]
    turned, coordinates = found.turned(small, kept, 0)
    assert distance(turned, small, images) < 1e-4
    assert torch.isfinite(coordinates.matrix).all()
