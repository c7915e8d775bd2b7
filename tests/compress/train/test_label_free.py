"""Training without labels: by a teacher alone, within a time limit, and the same after a kill."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data.augment import Augmentation
from compress.distill.settings import Distillation
from compress.distributed import ALONE
from compress.fidelity import fidelity
from compress.model.folder import weights_sha256
from compress.recipe import TrainRecipe
from compress.train.fit import Trained, fit, fit_network
from compress.train.held_out import rank_of
from compress.train.pace import Pace, measure_pace, steps_within
from compress.train.state import read_training_state
from runtime import EpochRecord, ModelError, PlanError
from tests.compress.tiny import SPEC, TINY_PLAN, tiny_vit, toy_data

from .test_fit import Killed, assert_same, kill_after, restless_clock

RECIPE = TrainRecipe(epochs=3, batch_size=8, lr=2e-3, head_lr=4e-3, patience=3)
LESSON = Distillation(methods=("response", "tokens"), weight=1.0)
STILL = Augmentation(mirror=0.0)
DATA = toy_data().without_labels


def train(recipe: TrainRecipe = RECIPE, **options: Any) -> Trained:
    given = {"teacher": tiny_vit(seed=9), "distillation": LESSON, "augmentation": STILL, "seed": 1} | options
    return fit(tiny_vit(), given.pop("data", DATA), SPEC, recipe, **given)


def test_a_student_comes_closer_to_its_teacher() -> None:
    data, teacher = toy_data(120).without_labels, tiny_vit(seed=9)
    before = fidelity(tiny_vit(), teacher, data, data.test, SPEC)
    trained = train(replace(RECIPE, epochs=8, patience=8), data=data, teacher=teacher)
    after = fidelity(trained.model, teacher, data, data.test, SPEC)
    assert after.divergence < before.divergence / 2
    assert after.agreement > before.agreement
    assert before.cosine is not None
    assert after.cosine is not None
    assert after.cosine > before.cosine + 0.1


def test_the_best_epoch_diverges_least_from_the_teacher() -> None:
    trained = train(replace(RECIPE, lr=5e-2, head_lr=5e-2))
    records = trained.epochs
    assert all((own.held_out_loss, own.held_out_top1) == (None, None) for own in records)
    best = min(own.held_out_divergence or 0.0 for own in records)
    found = fidelity(trained.model, tiny_vit(seed=9), DATA, DATA.held_out, SPEC)
    assert found.divergence == pytest.approx(best, rel=1e-4)
    agreement = next(own.held_out_agreement for own in records if own.held_out_divergence == best)
    assert found.agreement == agreement


def test_ranks_of_epochs() -> None:
    free = [EpochRecord(1, 1.0, None, None, 0.9, 0.5), EpochRecord(2, 1.0, None, None, 0.8, 0.4)]
    assert rank_of(free[1]) > rank_of(free[0])
    assert rank_of(replace(free[0], held_out_divergence=0.4)) > rank_of(free[1])
    assert (
        rank_of(EpochRecord(1, 1.0, 0.3, 0.9))
        > rank_of(EpochRecord(1, 1.0, 0.4, 0.9))
        > rank_of(EpochRecord(1, 1.0, 0.1, 0.8))
    )


def test_labels_change_nothing_where_they_weigh_nothing() -> None:
    labelled = train(data=toy_data())
    assert labelled.epochs[0].train_loss == pytest.approx(train().epochs[0].train_loss, rel=1e-6)
    assert labelled.epochs[0].held_out_top1 is not None
    assert labelled.epochs[0].held_out_agreement is None


def test_nothing_is_learnt_from_nothing() -> None:
    with pytest.raises(ModelError, match="learns from a teacher alone"):
        train(teacher=None, distillation=None)
    with pytest.raises(ModelError, match="learns from a teacher alone"):
        train(teacher=None, distillation=Distillation(methods=("self",), self_blocks=(1,)))
    with pytest.raises(ModelError, match="learns from a teacher alone"):
        fit_network(tiny_vit(), DATA, SPEC, RECIPE, augmentation=STILL)
    taken = train(replace(RECIPE, epochs=0), teacher=None, distillation=None)
    assert weights_sha256(taken.model) == weights_sha256(tiny_vit())


@pytest.mark.parametrize("calls", [1, 2, 5, 9])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path, calls: int) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(progress=kill_after(calls), clock=restless_clock(), state_path=path)
    assert_same(train(state_path=path), train())


def counting_clock(step_s: float) -> Callable[[], float]:
    """A clock on which every look takes the same time."""
    looks = itertools.count()
    return lambda: step_s * next(looks)


def test_a_time_limit_becomes_a_number_of_steps() -> None:
    longest = train(replace(RECIPE, epochs=100, patience=100, minutes=0.5), clock=counting_clock(1.0))
    assert 4 < longest.limit < 30
    assert len(longest.epochs) == math.ceil(longest.limit / 4)
    shortest = train(replace(RECIPE, epochs=100, patience=100, minutes=0.001), clock=counting_clock(1.0))
    assert (shortest.limit, len(shortest.epochs)) == (1, 1)
    assert train(replace(RECIPE, minutes=1000.0), clock=counting_clock(1.0)).epochs == train().epochs
    assert train(replace(RECIPE, epochs=0, minutes=1.0)).limit == 0


def test_a_limited_training_is_that_of_a_schedule_of_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timed steps leave no trace, and the learning rate falls to its end within the limit."""
    endless = replace(RECIPE, epochs=100, patience=100, minutes=0.4)
    monkeypatch.setattr("compress.train.fit.steps_within", lambda *_: 8)
    assert_same(train(endless), train(replace(RECIPE, epochs=2)))
    monkeypatch.setattr("compress.train.fit.steps_within", lambda *_: 6)
    seen: list[tuple[int, int]] = []
    cut = train(endless, progress=lambda stage, done, total, note="": seen.append((done, total)))
    assert (cut.limit, len(cut.epochs)) == (6, 2)
    assert [done for done, total in seen if total == 6] == [1, 2, 3, 4, 4, 5, 6, 6]
    assert cut.epochs[1].train_loss == pytest.approx(train(replace(RECIPE, epochs=2)).epochs[1].train_loss, rel=0.3)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("calls", [2, 3, 7])
def test_a_resumed_limited_training_repeats_the_number_of_steps(tmp_path: Path, calls: int, labels: bool) -> None:
    path, recipe = tmp_path / "state.safetensors", replace(RECIPE, epochs=100, patience=100, minutes=0.4)
    data = toy_data() if labels else DATA
    whole = train(recipe, clock=counting_clock(1.0), data=data)
    with pytest.raises(Killed):
        train(recipe, clock=counting_clock(1.0), data=data, state_path=path, progress=kill_after(calls))
    # on another clock a new estimate would be another number of steps
    resumed = train(recipe, clock=counting_clock(0.1), data=data, state_path=path)
    assert resumed.limit == whole.limit
    assert_same(resumed, whole)


def test_the_state_keeps_the_number_of_steps_from_the_start(tmp_path: Path) -> None:
    path, kept = tmp_path / "state.safetensors", []

    def look(stage: str, done: int, total: int, note: str = "") -> None:
        kept.append((note, path.exists()))
        if len(kept) == 2:
            raise Killed

    with pytest.raises(Killed):
        train(replace(RECIPE, minutes=0.2), clock=counting_clock(1.0), state_path=path, progress=look)
    assert kept == [("timing the first steps", False), ("", True)]
    assert read_training_state(path, "another training") is None


@pytest.mark.parametrize("seconds", [1.0, 39.0, 100.0, 101.0, 119.0, 1000.0])
def test_the_steps_fit_the_time_and_one_more_would_not(seconds: float) -> None:
    pace, per_epoch = Pace(step_s=1.0, held_out_s=5.0), 20

    def needed(steps: int) -> float:
        return steps * pace.step_s + math.ceil(steps / per_epoch) * pace.held_out_s

    steps = steps_within(seconds, pace, per_epoch)
    assert needed(steps) <= seconds or steps == 1
    assert needed(steps + 1) > seconds


def test_the_pace_leaves_out_the_first_steps() -> None:
    now = [0.0]

    class Scored:
        def seconds(self, network: Any, clock: Any) -> float:
            return 2.5

    def steps() -> Any:
        for number in itertools.count():
            now[0] += 10.0 if number < 2 else 0.5
            yield number

    found = measure_pace(steps(), Scored(), tiny_vit(), lambda: now[0], 100.0, ALONE)  # type: ignore[arg-type]
    assert found == Pace(0.5, 2.5)


def test_minutes_are_checked_and_are_no_part_of_an_unlimited_training() -> None:
    with pytest.raises(PlanError, match="minutes must not be negative"):
        replace(RECIPE, minutes=-1.0)
    assert "minutes" not in repr(replace(RECIPE, minutes=3.0))
    assert np.isfinite(train().epochs[-1].train_loss)
    assert torch.isfinite(train().model.head.weight).all()


def test_a_training_that_only_harms_returns_what_it_was_given() -> None:
    harmed = train(replace(RECIPE, lr=10.0, head_lr=10.0, epochs=1), teacher=tiny_vit())
    assert not harmed.improved
    assert weights_sha256(harmed.model) == weights_sha256(tiny_vit())
    assert train().improved
    labelled = train(replace(RECIPE, lr=10.0, head_lr=10.0, epochs=1), data=toy_data())
    assert labelled.improved
    assert weights_sha256(labelled.model) != weights_sha256(tiny_vit())


def test_a_student_that_answers_with_vectors_comes_closer_to_its_teacher() -> None:
    data, plan = toy_data(120).without_labels, replace(TINY_PLAN, output="vector", num_classes=6)
    student, teacher = tiny_vit(plan), tiny_vit(plan, seed=9)
    before = fidelity(student, teacher, data, data.test, SPEC)
    recipe = replace(RECIPE, epochs=6, patience=6)
    trained = fit(student, data, SPEC, recipe, teacher=teacher, distillation=LESSON, augmentation=STILL, seed=1)
    after = fidelity(trained.model, teacher, data, data.test, SPEC)
    assert (after.agreement, after.divergence) == (None, None)
    assert before.cosine is not None
    assert after.cosine is not None
    assert after.cosine > before.cosine + 0.1
    assert after.sqnr_db is not None
    records = trained.epochs
    best = max(own.held_out_cosine or 0.0 for own in records)
    found = fidelity(trained.model, teacher, data, data.held_out, SPEC)
    assert found.cosine == pytest.approx(best, abs=1e-5)
    assert all(own.held_out_divergence is None for own in records)
    assert rank_of(records[0]) == (records[0].held_out_cosine, 0.0)
