from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data.augment import augmentation_for
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from compress.search.sparse_settings import SPARSE_LAYERS, SparseLayer, SparseSettings
from compress.search.unstructured import magnitude_masks, sparse_weights
from compress.train.fit import fit
from compress.train.masks import hold_zeros, masks_digest, with_zeros
from runtime import PlanError
from tests.compress.tiny import SPEC, TINY_PLAN, images_for, tiny_vit, toy_data

RECIPE = TrainRecipe(epochs=3, batch_size=10, lr=1e-2, head_lr=1e-2, weight_decay=0.1, clip_norm=1.0)


def zeros_of(model: SlicedViT, names: Any) -> dict[str, torch.Tensor]:
    weights = dict(model.named_parameters())
    return {name: weights[name] == 0 for name in names}


def train(model: SlicedViT, masks: dict[str, torch.Tensor] | None, recipe: TrainRecipe = RECIPE, **more: Any) -> Any:
    data = toy_data()
    return fit(model, data, SPEC, recipe, augmentation=augmentation_for(data), seed=1, masks=masks, **more)


def test_the_smallest_go_by_hand() -> None:
    weights = {name: value.detach().clone() for name, value in tiny_vit().named_parameters()}
    wanted = weights["blocks.1.mlp.fc2.weight"]  # 16 x 16
    wanted.copy_(torch.arange(256).reshape(16, 16).float() - 100)
    masks = magnitude_masks(build(TINY_PLAN, weights), SparseSettings(0.25, "layer", ("fc2",)))
    # 64 of 256: 0, both of 1 to 31, and of the two of magnitude 32 the first, which is -32
    gone = masks["blocks.1.mlp.fc2.weight"].logical_not() * wanted
    assert sorted(gone[gone != 0].tolist()) == [*range(-32, 0), *range(1, 32)]
    assert int((~masks["blocks.1.mlp.fc2.weight"]).sum()) == 64


def test_of_equals_the_first_go() -> None:
    weights = {name: value.detach().clone() for name, value in tiny_vit().named_parameters()}
    weights["blocks.0.mlp.fc1.weight"].fill_(0.5)
    mask = magnitude_masks(build(TINY_PLAN, weights), SparseSettings(0.5, "layer", ("fc1",)))["blocks.0.mlp.fc1.weight"]
    assert mask.flatten().tolist() == [False] * 192 + [True] * 192


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("layers", [SPARSE_LAYERS, ("fc1", "fc2"), ("qkv",)])
def test_every_layer_has_its_share_exactly(share: float, layers: tuple[SparseLayer, ...]) -> None:
    model = tiny_vit()
    masks = magnitude_masks(model, SparseSettings(share, "layer", layers))
    assert masks.keys() == sparse_weights(model, layers).keys()
    for name, weight in sparse_weights(with_zeros(model, masks), layers).items():
        assert int((weight == 0).sum()) == round(share * weight.numel())
        kept, gone = weight[masks[name]].abs(), sparse_weights(model)[name][~masks[name]].abs()
        assert float(kept.min()) >= float(gone.max())


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_all_layers_together_have_the_share_exactly(share: float) -> None:
    model = tiny_vit()
    masks = magnitude_masks(model, SparseSettings(share, "global"))
    gone = torch.cat([~mask.flatten() for mask in masks.values()])
    size = torch.cat([weight.abs().flatten() for weight in sparse_weights(model).values()])
    assert int(gone.sum()) == round(share * len(size))
    assert float(size[gone].max()) <= float(size[~gone].min())
    # and so not the share of every layer
    assert len({float((~mask).float().mean()) for mask in masks.values()}) > 1


def test_only_the_chosen_layers_are_touched() -> None:
    model = tiny_vit()
    masks = magnitude_masks(model, SparseSettings(0.5, "global", ("proj", "qkv")))
    assert list(masks)[:4] == [f"blocks.0.attn.{part}.weight" for part in ("q", "k", "v", "proj")]
    cut = dict(with_zeros(model, masks).named_parameters())
    for name, weight in model.named_parameters():
        assert (name in masks) != torch.equal(cut[name], weight)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_zeros_stay_through_training_and_the_others_learn(scope: str) -> None:
    model = tiny_vit()
    masks = magnitude_masks(model, SparseSettings(0.8, scope, SPARSE_LAYERS))
    trained = train(model, masks).model
    assert trained.plan == model.plan
    before = dict(model.named_parameters())
    for name, zeros in zeros_of(trained, masks).items():
        assert torch.equal(zeros, ~masks[name])
        assert not torch.equal(dict(trained.named_parameters())[name][masks[name]], before[name][masks[name]])


def test_without_masks_training_fills_the_zeros() -> None:
    model = tiny_vit()
    masks = magnitude_masks(model, SparseSettings(0.8))
    free = train(with_zeros(model, masks), None).model
    assert not any(zeros.any() for zeros in zeros_of(free, masks).values())


def test_held_zeros_are_trained_around_as_a_parametrisation_would() -> None:
    model = tiny_vit()
    masks = magnitude_masks(model, SparseSettings(0.7))
    cut = with_zeros(model, masks)
    images, labels = images_for(TINY_PLAN, 6), torch.arange(6) % 3
    weights = dict(cut.named_parameters())
    latent = {name: value.detach().clone().requires_grad_(True) for name, value in weights.items()}

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        own = {name: value * masks[name] if name in masks else value for name, value in values.items()}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(cut, own, (images,)), labels)

    optimiser = torch.optim.AdamW([{"params": list(latent.values())}], lr=1e-2, weight_decay=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        loss(latent).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    held = with_zeros(model, masks)
    hold_zeros(held, masks)
    other = torch.optim.AdamW(held.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(4):
        other.zero_grad()
        torch.nn.functional.cross_entropy(held(images), labels).backward()  # type: ignore[no-untyped-call]
        other.step()
    for name, value in held.named_parameters():
        expected = latent[name] * masks[name] if name in masks else latent[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_no_epochs_leave_the_zeros_alone() -> None:
    model = tiny_vit()
    masks = magnitude_masks(model, SparseSettings(0.6))
    untrained = train(model, masks, TrainRecipe(epochs=0)).model
    for name, value in with_zeros(model, masks).named_parameters():
        assert torch.equal(value, dict(untrained.named_parameters())[name])


class KilledError(Exception):
    """Stands in for a kill."""


def test_a_killed_training_goes_on_with_its_masks(tmp_path: Path) -> None:
    model, state = tiny_vit(), tmp_path / "training.safetensors"
    masks = magnitude_masks(model, SparseSettings(0.8, "global"))
    whole = train(model, masks)
    ticks = iter(range(0, 10_000, 40))  # every step is long enough to be saved

    def kill(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(model, masks, state_path=state, progress=kill, clock=lambda: float(next(ticks)))
    assert state.is_file()
    seen: list[int] = []
    resumed = train(model, masks, state_path=state, progress=lambda s, done, *rest: seen.append(done))
    assert seen[0] == 5  # and not from the beginning
    assert resumed.epochs == whole.epochs
    for name, value in whole.model.named_parameters():
        assert torch.equal(value, dict(resumed.model.named_parameters())[name])
    assert all(torch.equal(zeros, ~masks[name]) for name, zeros in zeros_of(resumed.model, masks).items())


def test_the_state_of_other_masks_is_not_gone_on_with(tmp_path: Path) -> None:
    model, state = tiny_vit(), tmp_path / "training.safetensors"
    one, other = (magnitude_masks(model, SparseSettings(share)) for share in (0.8, 0.5))
    cut = with_zeros(model, one)  # zeros of ``one`` are zeros of both, so that the weights are the same at first
    short = TrainRecipe(epochs=1, batch_size=10, lr=1e-2, head_lr=1e-2)
    train(cut, one, short, state_path=state)
    seen: list[int] = []
    train(cut, other, short, state_path=state, progress=lambda s, done, *rest: seen.append(done))
    assert seen[0] == 1
    assert masks_digest(one) != masks_digest(other)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError, match=r"blocks\.9"):
        with_zeros(tiny_vit(), {"blocks.9.mlp.fc1.weight": torch.ones(24, 16, dtype=torch.bool)})
    with pytest.raises(PlanError, match="does not fit"):
        with_zeros(tiny_vit(), {"blocks.0.mlp.fc1.weight": torch.ones(16, 24, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.0, "layer", ("fc1",)), "more than 0 and less than 1"),
        ((1.0, "layer", ("fc1",)), "more than 0 and less than 1"),
        ((float("nan"), "layer", ("fc1",)), "more than 0"),
        ((0.5, "block", ("fc1",)), "layer or global"),
        ((0.5, "layer", ("fc1", "head")), "qkv, proj, fc1 or fc2. Got"),
        ((0.5, "layer", ()), "Got none"),
    ],
)
def test_bad_sparsity_is_refused(arguments: tuple[float, str, tuple[str, ...]], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        SparseSettings(*arguments)  # type: ignore[arg-type]
