"""Shares of a batch, put together, are the batch; and what cannot be learnt in shares is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.data.augment import Augmentation
from compress.data.batches import training_batches
from compress.distill.settings import Distillation
from compress.distill.teachers import Teacher, sliced_teacher
from compress.distill.views import teacher_views
from compress.distributed import RankError, Ranks, check_shareable, current_ranks, joined
from compress.recipe import TrainRecipe
from compress.train.task import TrainTask, check_task, pack_task, unpack_task
from runtime import ModelError

from .tiny import ARCHITECTURES, SPEC, TINY_PLAN, timm_model, tiny_vit, toy_data

STILL = Augmentation(mirror=0.0)
LARGE = replace(SPEC, height=16, width=16, mean=(0.4,))
CPU = torch.device("cpu")


@given(size=st.integers(1, 9), count=st.integers(0, 40))
def test_shares_are_all_rows_once_and_nearly_equal(size: int, count: int) -> None:
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert [row for share in shares for row in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) == lengths[0] == Ranks(0, size).largest_share(count)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 30, 64])
@pytest.mark.parametrize("skip", [0, 2])
def test_shares_of_batches_are_the_batches(size: int, batch_size: int, skip: int) -> None:
    data = toy_data()
    named: dict[str, Any] = {"batch_size": batch_size, "seed": 3, "epoch": 2, "skip": skip}
    whole = list(training_batches(data, data.train, SPEC, STILL, **named))
    views = list(teacher_views(data, SPEC, LARGE, STILL, **named))
    everyone = [Ranks(rank, size) for rank in range(size)]
    shares = [list(training_batches(data, data.train, SPEC, STILL, ranks=ranks, **named)) for ranks in everyone]
    seen = [list(teacher_views(data, SPEC, LARGE, STILL, ranks=ranks, **named)) for ranks in everyone]
    assert {len(own) for own in [*shares, *seen]} == {len(whole)}
    for number, (images, labels) in enumerate(whole):
        lengths = [(rows := ranks.share(len(labels))).stop - rows.start for ranks in everyone]
        for parts, wanted in ((shares, images), (seen, views[number])):
            rows = [part[number][0] if parts is shares else part[number] for part in parts]
            joint = torch.cat([own[:length] for own, length in zip(rows, lengths, strict=True)])
            assert torch.equal(joint, wanted)
            assert all(len(own) for own in rows), "a network cannot do without any picture"
        assert all(torch.equal(own[number][1], labels) for own in shares)


def test_views_follow_from_the_pictures_where_they_are_alike() -> None:
    named: dict[str, Any] = {"batch_size": 8, "seed": 0, "epoch": 0, "ranks": Ranks(1, 2)}
    assert next(teacher_views(toy_data(), SPEC, replace(SPEC, mean=(0.1,)), STILL, **named)) is None


NORMED = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
DROPPING = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 3))


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (NORMED, "'1' goes by the statistics of a whole batch"),
        (DROPPING, "'1' drops activations at random"),
    ],
)
def test_networks_that_learn_otherwise_in_shares_are_refused(network: nn.Module, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        check_shareable(network)
    assert "name its folder with --teacher" in str(caught.value)


def test_paths_dropped_at_random_are_refused() -> None:
    spec = ARCHITECTURES["vit"]
    check_shareable(timm_model(spec))
    with pytest.raises(ModelError, match="drops paths at random"):
        check_shareable(timm_model(replace(spec, overrides={**spec.overrides, "drop_path_rate": 0.2})))


def task(teacher: Any = None, **told: Any) -> TrainTask:
    lesson = Distillation(**told) if teacher or told else None
    return TrainTask(tiny_vit(), SPEC, TrainRecipe(epochs=1), STILL, 0, False, CPU, teacher, lesson)


def test_a_teacher_may_be_anything_unless_it_learns_too() -> None:
    teacher = Teacher("a normed net", NORMED, SPEC, 3)
    check_task(task())
    check_task(task(teacher))
    check_task(task(methods=("self",)))
    with pytest.raises(ModelError, match="cannot be trained in several processes"):
        check_task(task(teacher, online=True))
    file: Any = object()
    with pytest.raises(ModelError, match="the file x is an exported file, which one process alone can ask"):
        check_task(task(Teacher("the file x", file, SPEC, 3)))


def test_a_task_is_the_same_after_it_was_sent() -> None:
    teacher = sliced_teacher(tiny_vit(replace(TINY_PLAN, act="quick_gelu"), seed=4), SPEC)
    for before in (task(), task(teacher)):
        # what goes between processes is pickled, and no function of a network can be
        there = unpack_task(*sent(pack_task(before)), CPU)
        assert there.recipe == before.recipe
        assert same(there.model, before.model)
        assert (there.teacher is None) == (before.teacher is None)
        if there.teacher is not None and before.teacher is not None:
            assert there.teacher.identity() == before.teacher.identity()


def sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def same(one: nn.Module, other: nn.Module) -> bool:
    weights = other.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


def test_a_process_started_alone_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined() as ranks:
        assert ranks.size == 1
        assert current_ranks() is ranks
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert ranks.size == 1


def test_processes_that_have_parted_train_no_more() -> None:
    ranks = Ranks(0, 2, broken=True)
    with pytest.raises(RankError, match="have lost each other already"), ranks.together(print, toy_data()):
        pass


def test_whole_is_what_it_was_given_where_there_is_but_one() -> None:
    rows = torch.randn(4, 3)
    assert Ranks().gather(rows, 4) is rows
    assert Ranks().broadcast_floats(0.1, 1 / 3) == (0.1, 1 / 3)
