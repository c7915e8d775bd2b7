from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from compress.data.augment import Augmentation
from compress.data.batches import training_batches
from compress.data.dataset import Dataset
from compress.evaluate import score
from compress.model.vit import SlicedViT
from compress.recipe import FINE_TUNE, RECOVER, SCRATCH, SCRATCH_RECOVER, TrainRecipe
from compress.train.fit import Trained, bf16_helps, fit
from compress.train.optimizer import learning_rate, make_optimizer
from compress.train.state import TrainingState, read_training_state, write_training_state
from runtime import EpochRecord, PlanError, StorageError
from tests.compress.tiny import SPEC, TINY_PLAN, sliced_model, tiny_vit, toy_data

RECIPE = TrainRecipe(epochs=3, batch_size=8, lr=2e-3, head_lr=4e-3, warmup=0.2, patience=3, clip_norm=1.0)
STEPS = 3 * 4


class Killed(BaseException):
    """Stands for the end of the process."""


def train(
    model: SlicedViT | None = None, data: Dataset | None = None, recipe: TrainRecipe = RECIPE, **options: Any
) -> Trained:
    options = {"augmentation": Augmentation(mirror=0.0), "seed": 1} | options
    return fit(model or tiny_vit(), data or toy_data(), SPEC, recipe, **options)


def assert_same(a: Trained, b: Trained) -> None:
    """Bit for bit."""
    assert a.epochs == b.epochs
    assert a.model.plan == b.model.plan
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name


def kill_after(calls: int) -> Callable[..., None]:
    counter = itertools.count(1)

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if next(counter) == calls:
            raise Killed

    return progress


def restless_clock() -> Callable[[], float]:
    """Half a minute and more goes by between two looks, so that every step is saved."""
    seconds = itertools.count(0.0, 31.0)
    return lambda: next(seconds)


def fitful_clock(seed: int) -> Callable[[], float]:
    generator, now = random.Random(seed), [0.0]

    def clock() -> float:
        now[0] += generator.choice([1.0, 12.0, 40.0])
        return now[0]

    return clock


@pytest.mark.slow
def test_training_learns() -> None:
    data, model = toy_data(120), tiny_vit()
    before = score(model, data, data.test, SPEC)
    trained = train(model, data, replace(RECIPE, epochs=12, patience=12))
    after = score(trained.model, data, data.test, SPEC)
    assert after.top1 > max(0.9, before.top1)
    assert after.loss < before.loss / 2
    losses = [record.train_loss for record in trained.epochs]
    assert losses[-1] < losses[0] / 2
    assert [record.epoch for record in trained.epochs] == list(range(1, len(losses) + 1))


def test_training_is_repeatable_and_hangs_on_the_seed() -> None:
    first = train()
    torch.manual_seed(12345)
    assert_same(first, train())
    assert train(seed=2).epochs != first.epochs


def test_the_models_given_are_left_as_they_were() -> None:
    model, teacher = tiny_vit(), tiny_vit(seed=9).train()
    before = [{n: v.clone() for n, v in m.state_dict().items()} for m in (model, teacher)]
    trained = train(model, teacher=teacher)
    for m, weights in zip((model, teacher), before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in m.state_dict().items())
        assert all(value.grad is None for value in m.parameters())
    assert not model.training
    assert teacher.training
    assert trained.model is not model
    assert not torch.equal(trained.model.head.weight, model.head.weight)
    assert not trained.model.training


@cache
def undisturbed(taught: bool = False) -> Trained:
    """Returns what a training learns that nothing disturbs."""
    return train(teacher=tiny_vit(seed=9) if taught else None)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 4, 5, 6, 9, 11, STEPS, STEPS + 1, STEPS + 3])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path, calls: int, taught: bool) -> None:
    teacher = tiny_vit(seed=9) if taught else None
    options: dict[str, Any] = {"teacher": teacher, "state_path": tmp_path / "state.safetensors"}
    with pytest.raises(Killed):
        train(progress=kill_after(calls), clock=restless_clock(), **options)
    steps: list[int] = []
    resumed = train(progress=lambda stage, done, total, note="": steps.append(done), **options)
    assert_same(resumed, undisturbed(taught))
    assert len(steps) < STEPS + 3 or calls == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_training_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path, seed: int) -> None:
    generator, path = random.Random(seed), tmp_path / "state.safetensors"
    kills = 0
    for _ in range(40):
        try:
            trained = train(
                progress=kill_after(generator.randint(2, 7)), clock=fitful_clock(generator.random()), state_path=path
            )
            break
        except Killed:
            kills += 1
    else:
        pytest.fail("never came to an end")
    assert kills >= 2
    assert_same(trained, undisturbed())


def test_a_state_is_saved_mid_epoch_only_when_it_is_time(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(progress=kill_after(3), state_path=path, clock=lambda: 0.0)
    assert not path.exists()
    with pytest.raises(Killed):
        train(progress=kill_after(3), state_path=path, clock=restless_clock())
    assert path.exists()


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    first = train(state_path=path)
    steps: list[int] = []
    assert_same(train(state_path=path, progress=lambda *a: steps.append(1)), first)
    assert steps == []


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "recipe": lambda: {"recipe": replace(RECIPE, lr=1e-3)},
    "seed": lambda: {"seed": 2},
    "augmentation": lambda: {"augmentation": Augmentation(mirror=0.0, jitter=0.1)},
    "weights": lambda: {"model": tiny_vit(seed=5)},
    "plan": lambda: {"model": tiny_vit(replace(TINY_PLAN, attn_scale=0.5))},
    "teacher": lambda: {"teacher": tiny_vit(seed=9)},
    "data-name": lambda: {"data": replace(toy_data(), name="other")},
    "data-train": lambda: {"data": replace(toy_data(), train=np.arange(26), held_out=np.arange(26, 45))},
    "data-labels": lambda: {"data": replace(toy_data(), labels=(toy_data().labels + 1) % 3)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_state_of_another_training_is_ignored(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "state.safetensors", OTHERS[what]()
    with pytest.raises(Killed):
        train(progress=kill_after(7), clock=restless_clock(), state_path=path)
    assert_same(train(state_path=path, **other), train(**other))


def test_the_state_of_another_teacher_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(progress=kill_after(7), clock=restless_clock(), state_path=path, teacher=tiny_vit(seed=9))
    assert_same(train(state_path=path, teacher=tiny_vit(seed=8)), train(teacher=tiny_vit(seed=8)))


def test_a_truncated_state_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(progress=kill_after(7), clock=restless_clock(), state_path=path)
    whole = path.read_bytes()
    for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_training_state(path, "any") is None
    assert_same(train(state_path=path), undisturbed())
    path.write_bytes(b"\xff" * 64)
    assert_same(train(state_path=path), undisturbed())


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    state = TrainingState(
        2,
        3,
        0.1 + 0.2,
        (EpochRecord(1, 1 / 3, 2 / 3, 0.5), EpochRecord(2, 1e-17, 0.25, 1.0)),
        {"a": torch.randn(2, 3), "b/c": torch.randn(1)},
        {"a": torch.randn(2, 3)},
        {"0.step": torch.tensor(7.0), "0.exp_avg": torch.randn(2, 3).T},
    )
    write_training_state(path, "mine", state)
    read = read_training_state(path, "mine")
    assert read is not None
    assert (read.epoch, read.batch, read.loss_sum, read.history) == (2, 3, 0.1 + 0.2, state.history)
    for group in ("weights", "best", "moments"):
        values = getattr(state, group)
        assert getattr(read, group).keys() == values.keys()
        assert all(torch.equal(value, values[name]) for name, value in getattr(read, group).items())
    assert read_training_state(path, "yours") is None
    assert read_training_state(tmp_path / "none", "mine") is None


def test_foreign_safetensors_are_no_state(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for metadata in (None, {"other": "x"}, {"header": "{"}, {"header": "{}"}, {"header": "[" * 5000}):
        save_file({"weights/a": torch.zeros(1)}, path, metadata=metadata)
        assert read_training_state(path, "mine") is None


def test_a_state_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Cannot write"):
        train(state_path=tmp_path / "file" / "state.safetensors")


def test_no_epochs_change_nothing() -> None:
    model = tiny_vit()
    trained = train(model, recipe=replace(RECIPE, epochs=0))
    assert trained.epochs == ()
    assert trained.model is not model
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


class Marks:
    """Gives the held-out accuracies it is told to, and remembers the weights they were given to."""

    def __init__(self, marks: list[tuple[float, float]]) -> None:
        self.marks, self.heads = marks, []  # type: ignore[var-annotated]

    def __call__(self, model: Any, *arguments: Any, **options: Any) -> Any:
        self.heads.append(model.head.weight.detach().clone())
        top1, loss = self.marks[len(self.heads) - 1]
        return type("Score", (), {"top1": top1, "loss": loss})()


@pytest.mark.parametrize(
    ("marks", "stops_after", "best"),
    [
        ([(0.5, 1.0)] * 9, 3, 1),
        ([(0.5, 1.0), (0.6, 1.0), (0.6, 0.9), (0.6, 0.9), (0.5, 0.1), (0.9, 0.1)], 5, 3),
        ([(0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.4, 1.0), (0.5, 1.0), (0.6, 1.0)], 6, 6),
        ([(0.9, 1.0), (0.2, 1.0), (0.95, 1.0), (0.4, 1.0), (0.5, 1.0), (0.99, 1.0)], 5, 3),
    ],
)
def test_it_stops_early_and_returns_the_best_epoch(
    monkeypatch: pytest.MonkeyPatch, marks: list[tuple[float, float]], stops_after: int, best: int
) -> None:
    judge = Marks(marks)
    monkeypatch.setattr("compress.train.held_out.score", judge)
    calls: list[tuple[int, int]] = []
    trained = train(
        recipe=replace(RECIPE, epochs=6, patience=2),
        progress=lambda s, done, total, note="": calls.append((done, total)),
    )
    assert len(trained.epochs) == len(judge.heads) == stops_after
    assert torch.equal(trained.model.head.weight, judge.heads[best - 1])
    assert [(r.held_out_top1, r.held_out_loss) for r in trained.epochs] == marks[:stops_after]
    assert calls[-1] == (24, 24)


def test_the_best_epoch_survives_a_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, recipe = tmp_path / "state.safetensors", replace(RECIPE, epochs=4, patience=4)
    marks = [(0.5, 1.0), (0.9, 1.0), (0.6, 1.0), (0.7, 1.0)]
    judge = Marks(marks)
    monkeypatch.setattr("compress.train.held_out.score", judge)
    with pytest.raises(Killed):
        train(recipe=recipe, state_path=path, progress=kill_after(3 * 5 + 2), clock=restless_clock())
    best = judge.heads[1]
    monkeypatch.setattr("compress.train.held_out.score", Marks(marks[3:]))
    trained = train(recipe=recipe, state_path=path)
    assert [r.held_out_top1 for r in trained.epochs] == [0.5, 0.9, 0.6, 0.7]
    assert torch.equal(trained.model.head.weight, best)


@given(total=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_learning_rate_rises_then_falls(total: int, warmup: float) -> None:
    rates = [learning_rate(step, total, warmup) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    rising = math.ceil(warmup * total)
    assert rates[:rising] == sorted(rates[:rising])
    assert rates[rising:] == sorted(rates[rising:], reverse=True)


def test_the_learning_rate_at_known_points() -> None:
    assert [learning_rate(step, 8, 0.0) for step in (0, 4, 8)] == pytest.approx([1.0, 0.5, 0.0])
    assert learning_rate(2, 8, 0.0) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert [learning_rate(step, 104, 4 / 104) for step in (0, 1, 3, 4)] == pytest.approx([0.2, 0.4, 0.8, 1.0])
    assert learning_rate(54, 104, 4 / 104) == pytest.approx(0.5)


@pytest.mark.parametrize("key", ["deit-distilled", "deit3", "clip", "dinov2-reg", "wee-gap"])
def test_only_matrices_are_decayed_and_heads_have_their_own_rate(key: str) -> None:
    model = sliced_model(key)
    recipe = TrainRecipe(epochs=1, lr=1e-4, head_lr=1e-3, weight_decay=0.07)
    seen: dict[int, tuple[float, float]] = {}
    for group in make_optimizer(model, recipe).param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in seen
            seen[id(parameter)] = (group["peak_lr"], group["weight_decay"])
    for name, parameter in model.named_parameters():
        matrix = any(part in name for part in ("attn.", "mlp.", "patch_embed", "head")) and name.endswith("weight")
        expected = (
            1e-3 if name in ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias") else 1e-4,
            0.07 if matrix else 0.0,
        )
        assert seen[id(parameter)] == expected, name
    assert len(seen) == len(list(model.parameters()))


def test_one_step_is_adamw_with_the_clipped_gradient() -> None:
    """Against torch's own AdamW on the one batch there is."""
    data = replace(toy_data(), train=np.arange(6))
    recipe = TrainRecipe(epochs=1, batch_size=6, lr=1e-3, head_lr=1e-3, weight_decay=0.1, clip_norm=0.01, patience=1)
    still = Augmentation(crop_area=(1.0, 1.0), mirror=0.0, jitter=0.0)
    trained = train(data=data, recipe=recipe, augmentation=still)
    ((images, labels),) = training_batches(data, data.train, SPEC, still, batch_size=6, seed=1, epoch=0)
    model = tiny_vit()
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and n.endswith("weight")]
    rest = [p for p in model.parameters() if not any(p is d for d in decayed)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], 1e-3
    )
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))
    assert norm > 0.01
    for p in model.parameters():
        assert p.grad is not None
        p.grad *= 0.01 / norm
    optimizer.step()
    for name, value in trained.model.named_parameters():
        torch.testing.assert_close(value, dict(model.named_parameters())[name], rtol=1e-4, atol=1e-5)
    assert trained.epochs[0].train_loss == pytest.approx(float(loss.detach()), rel=1e-5)


def test_a_teacher_changes_what_is_learnt() -> None:
    taught = train(teacher=tiny_vit(seed=9))
    assert taught.epochs != train().epochs
    only_labels = train(teacher=tiny_vit(seed=9), recipe=replace(RECIPE, distill_weight=0.0))
    assert only_labels.epochs == train(recipe=replace(RECIPE, distill_weight=0.0)).epochs


def test_bfloat16_trains_float32_weights() -> None:
    rough = train(bf16=True)
    assert {value.dtype for value in rough.model.parameters()} == {torch.float32}
    assert rough.epochs != train().epochs
    assert rough.epochs[0].train_loss == pytest.approx(train().epochs[0].train_loss, rel=0.1)


def test_bfloat16_is_for_wide_models_on_cpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(TINY_PLAN, embed_dim=192)
    for capabilities, helps in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c)
        assert bf16_helps(wide) == helps
        assert not bf16_helps(TINY_PLAN)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": -1}, "epochs must be at least 0. Got -1."),
        ({"batch_size": 0}, "batch_size must be at least 1. Got 0."),
        ({"patience": 0}, "patience must be at least 1. Got 0."),
        ({"lr": 0.0}, "lr must be positive. Got 0.0."),
        ({"lr": math.nan}, "lr must be positive. Got nan."),
        ({"head_lr": math.inf}, "head_lr must be positive. Got inf."),
        ({"temperature": -1.0}, "temperature must be positive. Got -1.0."),
        ({"weight_decay": -0.1}, "weight_decay must not be negative. Got -0.1."),
        ({"clip_norm": math.nan}, "clip_norm must not be negative. Got nan."),
        ({"warmup": 1.1}, "warmup must be between 0 and 1. Got 1.1."),
        ({"distill_weight": -0.1}, "distill_weight must be between 0 and 1. Got -0.1."),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        TrainRecipe(**({"epochs": 1} | changes))
    assert text in str(caught.value)


def test_the_published_recipes_are_as_published() -> None:
    assert (FINE_TUNE.epochs, FINE_TUNE.batch_size, FINE_TUNE.weight_decay) == (30, 128, 0.05)
    assert (FINE_TUNE.lr, FINE_TUNE.head_lr) == (0.5e-5, 0.5e-4)
    assert (RECOVER.epochs, RECOVER.batch_size, RECOVER.lr, RECOVER.head_lr) == (20, 128, 0.5e-5, 0.5e-5)
    for recipe in (RECOVER, SCRATCH_RECOVER):
        assert (recipe.temperature, recipe.distill_weight) == (4.0, 0.9)
    assert SCRATCH_RECOVER.lr <= SCRATCH.lr
