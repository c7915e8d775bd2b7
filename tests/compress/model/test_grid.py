"""Models that answer with a grid of patches: what they compute, what is left out, and what a cut keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.bases.analysis import analyse
from compress.model.embedder import grid_plan, load_grid
from compress.model.half_range import scaled_stream
from compress.model.slicing import KeptUnits, keep_all
from compress.vectors import mean_cosine, neighbours_kept
from runtime import PLAN_DOCUMENT, PlanError, macs, params
from tests.compress.model.test_embedder import spec_of
from tests.compress.tiny import images_for


@pytest.mark.parametrize("key", ["vit", "deit-distilled", "dinov2-reg", "avg-pool", "clip"])
def test_the_grid_is_what_timm_gives_behind_the_blocks(tmp_path: Path, key: str) -> None:
    spec, model = spec_of(tmp_path, key)
    own = load_grid(spec, (1, 2))
    assert own.plan == grid_plan(spec, (1, 2))
    images = images_for(own.plan, 3)
    with torch.no_grad():
        states = model.forward_intermediates(images, indices=[0, 1], norm=True, intermediates_only=True)
        wanted = torch.cat(states, dim=1).permute(0, 2, 3, 1)
        assert own(images).shape == (3, *own.plan.output_shape)
        assert torch.allclose(own(images), wanted, atol=1e-5)
        first, last = load_grid(spec, (1,)), load_grid(spec)
        assert len(first.blocks) == 1
        assert torch.allclose(first(images), wanted[..., : own.plan.embed_dim], atol=1e-5)
        assert torch.allclose(last(images), wanted[..., own.plan.embed_dim :], atol=1e-5)
    for made in (own, first, last):
        assert params(made.plan) == sum(value.numel() for value in made.parameters())


def test_the_maps_of_all_patches_and_blocks_cost_macs(tmp_path: Path) -> None:
    plan = grid_plan(spec_of(tmp_path, "vit")[0], (1, 2))
    one = replace(plan, output="vector", grid_blocks=(), num_classes=8)
    width = plan.embed_dim
    assert macs(plan) - macs(one) == width * (2 * plan.num_patches * width - 8)


def test_a_cut_stream_keeps_the_coordinates_of_the_whole_model(tmp_path: Path) -> None:
    model = load_grid(spec_of(tmp_path, "vit")[0], (1, 2))
    images = images_for(model.plan, 48)
    found = analyse(model, images)
    cut = found.cut(KeptUnits(tuple(range(40)), keep_all(found.model.plan).blocks))
    assert (cut.plan.embed_dim, cut.plan.output_shape) == (40, model.plan.output_shape)
    first, last = (cut.plan.eps_of(name) for name in ("taps.0.norm", "norm"))
    assert first != last
    with torch.no_grad():
        wanted, own = model(images).numpy(), cut(images).numpy()
    half = model.plan.num_classes
    assert mean_cosine(own[..., :half], wanted[..., :half]) > 0.9
    assert mean_cosine(own[..., half:], wanted[..., half:]) > 0.9


def test_a_scaled_stream_gives_the_same_grid(tmp_path: Path) -> None:
    for key in ("vit", "avg-pool"):
        model = load_grid(spec_of(tmp_path, key)[0], (1, 2))
        images = images_for(model.plan, 2)
        with torch.no_grad():
            assert torch.allclose(scaled_stream(model, 0.25)(images), model(images), rtol=1e-4, atol=1e-5)


def test_blocks_that_are_not_there_are_refused_and_the_plan_is_kept(tmp_path: Path) -> None:
    spec, _ = spec_of(tmp_path, "vit")
    for blocks in ((3,), (0, 1), (2, 1), (1, 1)):
        with pytest.raises(PlanError, match="--blocks with rising numbers of 1 to 2"):
            grid_plan(spec, blocks)
    plan = grid_plan(spec, (1, 2))
    PLAN_DOCUMENT.write(tmp_path / "plan.json", plan)
    assert PLAN_DOCUMENT.read(tmp_path / "plan.json") == plan
    with pytest.raises(PlanError, match="grid_blocks are the inner blocks that a grid reads"):
        replace(plan, grid_blocks=(2,))
    with pytest.raises(PlanError, match="A grid pools nothing"):
        replace(plan, pooling="token")


def test_neighbours_of_patches_are_those_of_other_images() -> None:
    rng = np.random.default_rng(0)
    grids = rng.standard_normal((16, 2, 2, 8)).astype(np.float32)
    grids[:, :, :, 0] += 50 * np.arange(16)[:, None, None]  # patches of one image are alike
    assert neighbours_kept(grids, grids) == 1.0
    moved = np.roll(grids, 5, axis=0)
    found = neighbours_kept(moved, rng.standard_normal(grids.shape).astype(np.float32))
    assert found is not None
    assert found < 0.6
    assert neighbours_kept(grids[:3], grids[:3]) is None
