"""Least squares after slicing: exact where units repeat, closer to the whole model where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.model.canonical import canonical
from compress.model.reconstruction import RIDGE, images_needed, reconstruct
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT
from runtime import BlockPlan, PlanError, ShapePlan
from tests.compress.tiny import TINY_PLAN, images_for, tiny_vit

IMAGES = 48


def batches(plan: ShapePlan, seed: int = 0, size: int = 16, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return list(images_for(plan, IMAGES, seed).to(dtype).split(size))


def fitted_exactly(
    sliced: SlicedViT, whole: SlicedViT, kept: KeptUnits, *, size: int = 16, ridge: float = RIDGE
) -> SlicedViT:
    """Reconstructs in float64, so that what rounding leaves is far below any bound here on every processor.

    Both models become float64.
    """
    images = batches(whole.plan, size=size, dtype=torch.float64)
    return reconstruct(sliced.double(), whole.double(), kept, images, ridge=ridge)


PLAN = replace(
    TINY_PLAN,
    embed_dim=32,
    blocks=tuple(BlockPlan(num_heads=2, qk_dim=16, v_dim=16, mlp_dim=64) for _ in range(3)),
)


def with_block(kept: KeptUnits, index: int, **changes: object) -> KeptUnits:
    blocks = list(kept.blocks)
    blocks[index] = replace(blocks[index], **changes)  # type: ignore[arg-type]
    return replace(kept, blocks=tuple(blocks))


def half_mlp(plan: ShapePlan) -> KeptUnits:
    kept = keep_all(plan)
    for index, block in enumerate(plan.blocks):
        kept = with_block(kept, index, mlp=tuple(range(block.mlp_dim // 2)))
    return kept


def logits(model: SlicedViT, seed: int = 1) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(images_for(model.plan, IMAGES, seed).to(model.head.weight.dtype))
    return found


def away(model: SlicedViT, whole: SlicedViT) -> float:
    """Returns how far answers to other images are from the whole model's, root mean square."""
    return float((logits(model) - logits(whole)).square().mean().sqrt())


def test_a_model_that_lost_nothing_stays_what_it_is() -> None:
    whole = tiny_vit(PLAN, seed=1)
    kept = keep_all(whole.plan)
    same = fitted_exactly(slice_vit(whole, kept), whole, kept)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], value, rtol=0, atol=1e-9)


def test_units_that_repeat_others_are_made_good_exactly() -> None:
    whole = tiny_vit(PLAN, seed=2)
    with torch.no_grad():
        for block in whole.blocks:
            half = block.mlp.fc1.out_features // 2
            block.mlp.fc1.weight[half:] = block.mlp.fc1.weight[:half]
            block.mlp.fc1.bias[half:] = block.mlp.fc1.bias[:half]
    kept = half_mlp(whole.plan)
    sliced = slice_vit(whole, kept)
    mended = fitted_exactly(sliced, whole, kept, ridge=1e-9)
    assert away(sliced, whole) > 1e-2
    # what is left is the ridge's share, and no rounding
    torch.testing.assert_close(logits(mended), logits(whole), rtol=0, atol=1e-5)
    for block, full in zip(mended.blocks, whole.blocks, strict=True):
        folded = full.mlp.fc2.weight.unflatten(1, (2, -1)).sum(1)
        torch.testing.assert_close(block.mlp.fc2.weight, folded, rtol=0, atol=1e-4)


def test_one_linear_is_the_closed_form() -> None:
    ridge = 0.05
    whole = tiny_vit(replace(PLAN, blocks=PLAN.blocks[:1]), seed=3)
    kept = half_mlp(whole.plan)
    sliced = slice_vit(whole, kept)
    mended = fitted_exactly(sliced, whole, kept, ridge=ridge)
    block = whole.blocks[0]
    with torch.no_grad():
        x = whole.norm_pre(whole.embed(images_for(whole.plan, IMAGES).double()))
        before = x + block.attn(block.norm1(x))
        y = (before + block.mlp(block.norm2(before))).flatten(0, 1).numpy()
        h = sliced.blocks[0].mlp.hidden(sliced.blocks[0].norm2(before)).flatten(0, 1).numpy()
    # attention lost nothing, so what it wrote is the whole model's
    fc2 = sliced.blocks[0].mlp.fc2
    missing = y - before.flatten(0, 1).numpy() - h @ fc2.weight.detach().numpy().T
    missing -= fc2.bias.detach().numpy()
    design = np.concatenate([h, np.ones((len(h), 1))], axis=1)
    strength = np.sqrt(ridge * (h**2).sum(0).mean())
    held = np.diag([strength] * h.shape[1] + [np.sqrt(1e-6 * len(h))])
    stacked = np.concatenate([design, held]), np.concatenate([missing, np.zeros((len(held), missing.shape[1]))])
    added = np.linalg.lstsq(*stacked, rcond=None)[0]
    found = (mended.blocks[0].mlp.fc2.weight - fc2.weight).detach().numpy()
    np.testing.assert_allclose(found, added[:-1].T, atol=1e-7)
    bias = (mended.blocks[0].mlp.fc2.bias - fc2.bias).detach().numpy()
    np.testing.assert_allclose(bias, added[-1], atol=1e-7)


def narrower(plan: ShapePlan) -> KeptUnits:
    return replace(keep_all(plan), embed=tuple(range(8, plan.embed_dim)))


def fewer_values(plan: ShapePlan) -> KeptUnits:
    kept = keep_all(plan)
    for index, block in enumerate(plan.blocks):
        kept = with_block(kept, index, v=(tuple(range(8, block.v_dim)),) * block.num_heads)
    return kept


def one_head_less(plan: ShapePlan) -> KeptUnits:
    kept = keep_all(plan)
    own = kept.blocks[0]
    return with_block(kept, 0, heads=own.heads[1:], qk=own.qk[1:], v=own.v[1:])


def shallower(plan: ShapePlan) -> KeptUnits:
    kept = keep_all(plan)
    return replace(kept, blocks=kept.blocks[:-1])


@pytest.mark.parametrize("choose", [half_mlp, fewer_values, one_head_less, shallower])
@pytest.mark.parametrize(
    "plan",
    [PLAN, replace(PLAN, layer_scale=True), replace(PLAN, proj_bias=False), replace(PLAN, norm_pre=True)],
    ids=["plain", "scaled", "no bias", "early norm"],
)
@pytest.mark.parametrize("form", ["plain", "canonical"])
def test_what_is_left_answers_closer_to_the_whole_model(
    choose: Callable[[ShapePlan], KeptUnits], plan: ShapePlan, form: str
) -> None:
    whole = tiny_vit(plan, seed=4)
    if plan.layer_scale:
        with torch.no_grad():
            for block in whole.blocks:
                block.gamma1.uniform_(0.1, 1.0)
                block.gamma2.uniform_(-1.0, 1.0)
                block.gamma2[0] = 0.0
    whole = canonical(whole) if form == "canonical" else whole
    kept = choose(plan)
    sliced = slice_vit(whole, kept)
    before = {name: value.clone() for name, value in sliced.state_dict().items()}
    mended = reconstruct(sliced, whole, kept, batches(plan))
    assert mended.plan == sliced.plan
    assert all(bool(torch.isfinite(value).all()) for value in mended.state_dict().values())
    assert away(mended, whole) < away(sliced, whole)
    assert all(torch.equal(value, before[name]) for name, value in sliced.state_dict().items())


def test_a_narrower_residual_stream_follows_what_is_left_of_the_whole_one() -> None:
    whole = tiny_vit(PLAN, seed=4)
    kept = narrower(PLAN)
    sliced = slice_vit(whole, kept)
    mended = reconstruct(sliced, whole, kept, batches(PLAN))

    def stream(model: SlicedViT) -> torch.Tensor:
        with torch.no_grad():
            x = model.norm_pre(model.embed(images_for(PLAN, IMAGES, seed=1)))
            for block in model.blocks:
                x = block(x)
        return x

    wanted = stream(whole)[..., list(kept.embed)]
    assert (stream(mended) - wanted).square().mean() < 0.7 * (stream(sliced) - wanted).square().mean()


def test_only_what_writes_to_the_residual_stream_changes() -> None:
    whole = tiny_vit(PLAN, seed=5)
    kept = half_mlp(PLAN)
    sliced = slice_vit(whole, kept)
    mended = reconstruct(sliced, whole, kept, batches(PLAN))
    changed = {name for name, value in sliced.state_dict().items() if not torch.equal(mended.state_dict()[name], value)}
    assert {name.split(".", 2)[2].rpartition(".")[0] for name in changed} <= {"attn.proj", "mlp.fc2"}
    assert "blocks.0.mlp.fc2.weight" in changed


def test_a_strong_ridge_changes_hardly_anything() -> None:
    whole = tiny_vit(PLAN, seed=6)
    kept = half_mlp(PLAN)
    sliced = slice_vit(whole, kept)

    def moved(ridge: float) -> float:
        mended = reconstruct(sliced, whole, kept, batches(PLAN), ridge=ridge)
        with torch.no_grad():
            return float((mended.blocks[0].mlp.fc2.weight - sliced.blocks[0].mlp.fc2.weight).abs().max())

    weak, strong = moved(1e-3), moved(1e6)
    assert strong < 1e-4 < weak


def test_how_images_are_batched_does_not_matter() -> None:
    whole = tiny_vit(PLAN, seed=7)
    kept = half_mlp(PLAN)
    sliced = slice_vit(whole, kept)
    one, other = (fitted_exactly(sliced, whole, kept, size=size) for size in (IMAGES, 7))
    for name, value in one.state_dict().items():
        # the ridge is a number in float32
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    whole = tiny_vit(PLAN, seed=8)
    kept = half_mlp(PLAN)
    sliced = slice_vit(whole, kept)
    with pytest.raises(PlanError, match="do not leave the sliced one"):
        reconstruct(whole, whole, kept, batches(PLAN))
    with pytest.raises(PlanError, match="needs images"):
        reconstruct(sliced, whole, kept, [])
    for ridge in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(PlanError, match="ridge must be positive"):
            reconstruct(sliced, whole, kept, batches(PLAN), ridge=ridge)


def test_as_many_images_as_the_tokens_ask_for() -> None:
    assert images_needed(replace(PLAN, img_size=(224, 224), patch_size=(16, 16))) == 84
    assert images_needed(replace(PLAN, img_size=(512, 512), patch_size=(16, 16))) == 64
