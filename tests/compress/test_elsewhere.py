"""What is computed on another device is what the CPU computes, and what is kept of it is on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.data.augment import Augmentation
from compress.data.batches import training_batches
from compress.devices import copy_on, device_of
from compress.distill.settings import Distillation
from compress.distill.teachers import Teacher, sliced_teacher
from compress.evaluate import logits_of, score
from compress.importance.scores import fisher_scores
from compress.recipe import TrainRecipe
from compress.train.fit import Trained, fit, fit_network
from runtime import BlockPlan

from .elsewhere import Distant, second_device
from .tiny import ARCHITECTURES, SPEC, TINY_PLAN, timm_model, tiny_vit, toy_data

RECIPE = TrainRecipe(epochs=2, batch_size=8, lr=2e-3, head_lr=4e-3, patience=2, clip_norm=1.0)
STILL = Augmentation(mirror=0.0)
LARGE = replace(SPEC, height=16, width=16, mean=(0.4,))


class Killed(BaseException):
    """Stands for the end of the process."""


def learn(**options: Any) -> Trained:
    return fit(tiny_vit(), toy_data(), SPEC, RECIPE, **{"augmentation": STILL, "seed": 1, **options})


def wide_teacher() -> Teacher:
    plan = replace(TINY_PLAN, img_size=(16, 16), embed_dim=24, blocks=(BlockPlan(2, 8, 8, 24),) * 3)
    return sliced_teacher(tiny_vit(plan, seed=9), LARGE)


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "labels": dict,
    "response": lambda: {"teacher": wide_teacher()},
    "alike": lambda: {
        "teacher": replace(sliced_teacher(tiny_vit(seed=3), SPEC), preprocessing=replace(SPEC, mean=(0.3,)))
    },
    "all": lambda: {
        "teacher": wide_teacher(),
        "distillation": Distillation(methods=("response", "feature", "relation", "self"), self_blocks=(1,)),
    },
    "online": lambda: {"teacher": wide_teacher(), "distillation": Distillation(online=True)},
    "masks": lambda: {"masks": {"blocks.0.mlp.fc1.weight": torch.arange(24 * 16).view(24, 16) % 3 > 0}},
}


def on_cpu(trained: Trained) -> dict[str, torch.Tensor]:
    networks = {"model": trained.model, "teacher": trained.teacher}
    weights = {f"{key}.{n}": v for key, net in networks.items() if net is not None for n, v in net.state_dict().items()}
    assert not any(isinstance(value, Distant) for value in weights.values())
    return weights


def assert_same(one: Trained, other: Trained) -> None:
    assert one.epochs == other.epochs
    first, second = on_cpu(one), on_cpu(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("name", CASES)
def test_a_training_elsewhere_is_that_of_the_cpu(name: str) -> None:
    with second_device() as device:
        there = learn(device=device, **CASES[name]())
    assert_same(there, learn(**CASES[name]()))


@pytest.mark.parametrize("first", ["cpu", "elsewhere"])
def test_a_state_of_one_device_goes_on_on_another(tmp_path: Path, first: str) -> None:
    steps = itertools.count(1)

    def kill(*_: Any) -> None:
        if next(steps) == 6:
            raise Killed

    def begin(device: torch.device) -> None:
        seconds = itertools.count(0.0, 31.0)
        with pytest.raises(Killed):
            learn(device=device, state_path=path, progress=kill, clock=lambda: next(seconds), teacher=wide_teacher())

    def end(device: torch.device) -> Trained:
        return learn(
            device=device, state_path=path, progress=lambda *told: seen.append(told[1]), teacher=wide_teacher()
        )

    path, seen = tmp_path / "state.safetensors", list[int]()
    cpu = torch.device("cpu")
    with second_device() as device:
        begin(cpu if first == "cpu" else device)
        trained = end(device if first == "cpu" else cpu)
    assert seen[0] == 5
    assert_same(trained, learn(teacher=wide_teacher()))


def test_scores_elsewhere_are_those_of_the_cpu() -> None:
    model, data = tiny_vit(), toy_data()
    batches = list(training_batches(data, data.train, SPEC, STILL, batch_size=8, seed=0, epoch=0))
    with second_device() as device:
        found = score(model, data, data.test, SPEC, device=device)
        importance = fisher_scores(model, batches, device=device)
        logits = logits_of(copy_on(model, device), data, data.test, SPEC)
    assert found == score(model, data, data.test, SPEC)
    assert np.array_equal(logits, logits_of(model, data, data.test, SPEC))
    assert device_of(model) == torch.device("cpu")
    for name, value in fisher_scores(model, batches).items():
        assert not isinstance(importance[name], Distant)
        assert torch.equal(importance[name], value), name


def test_any_network_is_trained_elsewhere_and_comes_back() -> None:
    network = timm_model(replace(ARCHITECTURES["vit"], img_size=8, patch_size=4, in_chans=1), num_classes=3)
    told: dict[str, Any] = {"augmentation": STILL, "seed": 1}
    with second_device() as device:
        there, epochs = fit_network(network, toy_data(), SPEC, RECIPE, device=device, **told)
    here, same = fit_network(network, toy_data(), SPEC, RECIPE, **told)
    for one, other in zip(epochs, same, strict=True):
        # which kernel of attention timm's networks take hangs on the device
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
    assert not any(isinstance(value, Distant) for value in there.state_dict().values())
    torch.testing.assert_close(there.head.weight, here.head.weight)


def test_the_second_device_lets_nothing_mix() -> None:
    with second_device() as device:
        there = torch.ones(3).to(device)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError, NotImplementedError)):
            there.numpy()
        with pytest.raises(RuntimeError, match="same device"):
            copy_on(nn.Linear(3, 2), device)(torch.ones(1, 3))
        assert (2 * there).cpu().tolist() == [2.0, 2.0, 2.0]
