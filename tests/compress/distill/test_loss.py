"""What a student is taught by: any teacher, any method, at any size, and the same after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.data.augment import Augmentation, augment
from compress.data.batches import training_batches
from compress.data.dataset import UNLABELLED, ArrayImages
from compress.distill.features import feature_loss
from compress.distill.loss import DistillationLoss
from compress.distill.outputs import depth_of, outputs_of
from compress.distill.relations import angle_loss, distance_loss
from compress.distill.response import distillation_loss
from compress.distill.settings import DISTILL_METHODS, Distillation, feature_pairs, shallow_blocks
from compress.distill.teachers import Teacher, TimmSpec, sliced_teacher, timm_teacher
from compress.distill.views import seen_by, teacher_views
from compress.recipe import TrainRecipe
from compress.train.fit import Trained, fit, fit_network
from runtime import ModelError, PlanError, Preprocessing, normalise
from tests.compress.tiny import ARCHITECTURES, SPEC, TINY_PLAN, images_for, sliced_model, timm_model, tiny_vit, toy_data
from tests.compress.train.test_fit import Killed, assert_same, kill_after, restless_clock

RECIPE = TrainRecipe(epochs=2, batch_size=8, lr=2e-3, head_lr=4e-3, warmup=0.2, patience=2, clip_norm=1.0)
STILL = Augmentation(mirror=0.0)
LARGER = Preprocessing(16, 16, 1, (0.4,), (0.3,), "bilinear")
RESPONSE_T4, RESPONSE_T2 = Distillation(), Distillation(weight=0.8, temperature=2.0)
EVERYTHING = Distillation(
    methods=tuple(own for own in DISTILL_METHODS if own != "tokens"), self_blocks=(1,), temperature=2.0
)
"""All methods that any network can teach."""


WIDER = replace(TINY_PLAN, embed_dim=24)


class SmallNet(nn.Module):
    """A convolutional network with batch norm and dropout that shows its stages as timm's networks do."""

    feature_info = ({}, {})

    def __init__(self, channels: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1), nn.BatchNorm2d(10), nn.ReLU(), nn.Dropout(0.2))
        self.fc = nn.Linear(10, classes)

    def forward_intermediates(self, x: Any, indices: Any, output_fmt: str) -> Any:
        states = [self.first(x)]
        states.append(self.second(states[0]))
        return states[1], [states[i] for i in indices]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.second(self.first(x)))


def small_net(seed: int = 0, channels: int = 1, spec: Preprocessing = LARGER) -> Teacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Teacher("a small net", SmallNet(channels).eval(), spec, 3)


def teach(told: Distillation, teacher: Any = None, **options: Any) -> Trained:
    options = {"augmentation": STILL, "seed": 1} | options
    model, data = options.pop("model", None) or tiny_vit(), options.pop("data", None) or toy_data()
    return fit(model, data, SPEC, options.pop("recipe", RECIPE), teacher=teacher, distillation=told, **options)


def first_batch(data: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    data = data or toy_data()
    return next(training_batches(data, data.train, SPEC, STILL, batch_size=8, seed=1, epoch=0))


def test_every_term_of_the_loss_is_there_with_its_weight() -> None:
    student, teacher = tiny_vit(), sliced_teacher(tiny_vit(replace(TINY_PLAN, embed_dim=24), seed=3), SPEC)
    images, labels = first_batch()
    told = Distillation(
        methods=("response", "feature", "relation"),
        weight=0.6,
        temperature=3.0,
        blocks=((1, 2),),
        feature_weight=0.7,
        distance_weight=2.0,
        angle_weight=5.0,
    )
    lesson = DistillationLoss(told, teacher, student, SPEC)
    own, other = (outputs_of(m, images, (0, 1), embedding=True) for m in (student, teacher.network))
    assert own.embedding is not None
    assert other.embedding is not None
    expected = distillation_loss(own.logits, other.logits, labels, 0.6, 3.0)
    expected = expected + 0.7 * feature_loss(own.features[0], other.features[1], lesson.projections[0])
    expected = expected + 2.0 * distance_loss(own.embedding, other.embedding)
    expected = expected + 5.0 * angle_loss(own.embedding, other.embedding)
    torch.testing.assert_close(lesson.loss(student, images, labels, None), expected)
    without = DistillationLoss(replace(told, methods=("feature",)), teacher, student, SPEC)
    expected = F.cross_entropy(own.logits, labels) + 0.7 * feature_loss(
        own.features[0], other.features[1], without.projections[0]
    )
    torch.testing.assert_close(without.loss(student, images, labels, None), expected)


def test_without_more_said_it_is_the_recipes_response() -> None:
    teacher = tiny_vit(seed=9)
    told = Distillation(weight=RECIPE.distill_weight, temperature=RECIPE.temperature)
    plain = fit(tiny_vit(), toy_data(), SPEC, RECIPE, augmentation=STILL, seed=1, teacher=teacher)
    assert_same(plain, teach(told, sliced_teacher(teacher, SPEC)))


LESSONS: dict[str, Callable[[], tuple[Distillation, Teacher | None]]] = {
    "response": lambda: (RESPONSE_T2, small_net()),
    "feature": lambda: (Distillation(methods=("feature",)), small_net()),
    "relation": lambda: (Distillation(methods=("relation",)), small_net()),
    "self": lambda: (Distillation(methods=("self",), self_blocks=(1,)), None),
    "everything": lambda: (EVERYTHING, small_net()),
    "tokens": lambda: (replace(EVERYTHING, methods=DISTILL_METHODS), sliced_teacher(tiny_vit(WIDER, seed=9), SPEC)),
    "online": lambda: (replace(EVERYTHING, online=True, teacher_lr=1e-2), small_net()),
}


@pytest.mark.parametrize("key", LESSONS)
def test_a_killed_lesson_ends_as_an_undisturbed_one(tmp_path: Path, key: str) -> None:
    told, teacher = LESSONS[key]()
    options: dict[str, Any] = {"state_path": tmp_path / "state.safetensors"}
    whole = teach(told, teacher)
    for calls in (3, 3):
        with pytest.raises(Killed):
            teach(told, teacher, progress=kill_after(calls), clock=restless_clock(), **options)
    resumed = teach(told, teacher, **options)
    assert_same(resumed, whole)
    if told.online:
        assert resumed.teacher is not None
        assert whole.teacher is not None
        for name, value in resumed.teacher.state_dict().items():
            assert torch.equal(value, whole.teacher.state_dict()[name]), name
    else:
        assert whole.teacher is None


@pytest.mark.parametrize(
    "other",
    [
        (replace(RESPONSE_T2, temperature=3.0), small_net()),
        (RESPONSE_T2, small_net(seed=1)),
        (RESPONSE_T2, replace(small_net(), preprocessing=replace(LARGER, height=12, width=12))),
    ],
)
def test_the_state_of_another_lesson_is_ignored(tmp_path: Path, other: tuple[Distillation, Teacher]) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        teach(RESPONSE_T2, small_net(), progress=kill_after(4), clock=restless_clock(), state_path=path)
    assert_same(teach(*other, state_path=path), teach(*other))


def test_an_online_teacher_learns_and_the_one_given_does_not() -> None:
    teacher = small_net()
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}  # type: ignore[union-attr]
    told = Distillation(online=True, teacher_lr=1e-2)
    trained = teach(told, teacher, recipe=replace(RECIPE, epochs=6, patience=6))
    assert trained.teacher is not None
    assert not trained.teacher.training
    for name, value in teacher.network.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, before[name])
    data = toy_data()
    batches = list(training_batches(data, data.train, LARGER, STILL, batch_size=30, seed=1, epoch=0))
    losses = [F.cross_entropy(net(batches[0][0]), batches[0][1]).item() for net in (teacher.network, trained.teacher)]
    assert losses[1] < losses[0]


def test_an_offline_teacher_is_never_trained_nor_kept_in_the_state() -> None:
    teacher = small_net()
    lesson = DistillationLoss(RESPONSE_T4, teacher, tiny_vit(), SPEC)
    assert list(lesson.trained.parameters()) == []
    images, labels = first_batch()
    lesson.loss(tiny_vit(), images, labels, torch.zeros(8, 1, 16, 16)).backward()
    assert all(p.grad is None for p in teacher.network.parameters())  # type: ignore[union-attr]


def test_everything_trained_beside_the_student_moves() -> None:
    lesson = DistillationLoss(replace(EVERYTHING, online=True), small_net(), tiny_vit(), SPEC)
    student, (images, labels) = tiny_vit(), first_batch()
    for value in lesson.projections.parameters():
        nn.init.normal_(value)
    lesson.loss(student, images, labels, images_for(replace(TINY_PLAN, img_size=(16, 16)), 8)).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in lesson.trained.parameters())
    groups = lesson.groups(RECIPE)
    assert sum(len(group["params"]) for group in groups) == len(list(lesson.trained.parameters()))
    assert {group["peak_lr"] for group in groups} == {RECIPE.lr, EVERYTHING.fresh_lr}


def test_self_distillation_teaches_the_shallow_head() -> None:
    told = Distillation(methods=("self",), self_blocks=(1,))
    trained = teach(told, recipe=replace(RECIPE, epochs=8, patience=8))
    assert trained.epochs[-1].train_loss < trained.epochs[0].train_loss
    plain = fit(tiny_vit(), toy_data(), SPEC, RECIPE, augmentation=STILL, seed=1)
    assert not torch.equal(plain.model.head.weight, trained.model.head.weight)


def test_a_last_batch_of_one_picture_does_not_stop_batch_norm() -> None:
    data = replace(toy_data(), train=np.arange(9))
    at_once = replace(small_net(), preprocessing=replace(LARGER, height=4, width=4))
    trained = teach(Distillation(online=True), at_once, data=data)
    assert all(math.isfinite(record.train_loss) for record in trained.epochs)


def test_any_network_can_be_trained_on_the_labels(tmp_path: Path) -> None:
    network = small_net().network
    assert isinstance(network, SmallNet)
    recipe, path = replace(RECIPE, epochs=3, patience=3), tmp_path / "state.safetensors"
    whole, epochs = fit_network(network, toy_data(), LARGER, recipe, augmentation=STILL)
    assert isinstance(whole, SmallNet)
    assert not torch.equal(whole.fc.weight, network.fc.weight)
    with pytest.raises(Killed):
        fit_network(
            *(network, toy_data(), LARGER, recipe),
            augmentation=STILL,
            state_path=path,
            progress=kill_after(6),
            clock=restless_clock(),
        )
    again, same = fit_network(network, toy_data(), LARGER, recipe, augmentation=STILL, state_path=path)
    assert same == epochs
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


@pytest.mark.parametrize("key", ["vit", "deit-distilled", "dinov2-reg", "avg-pool", "wee-gap"])
def test_hidden_states_are_those_of_timm(key: str) -> None:
    model, theirs = sliced_model(key), timm_model(ARCHITECTURES[key])
    images = images_for(model.plan)
    blocks = tuple(range(depth_of(model)))
    with torch.no_grad():
        ours, others = (outputs_of(m, images, blocks) for m in (model, theirs))
    assert depth_of(theirs) == depth_of(model)
    torch.testing.assert_close(ours.logits, model(images).detach())
    for own, other in zip(ours.features, others.features, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_the_embedding_is_what_the_head_reads() -> None:
    model = tiny_vit()
    made = outputs_of(model, images_for(TINY_PLAN), embedding=True)
    assert made.embedding is not None
    torch.testing.assert_close(made.logits, model.head(made.embedding))
    assert not model.blocks[0]._forward_hooks
    assert not model.head._forward_pre_hooks


def test_blocks_are_chosen_by_default_and_checked() -> None:
    assert feature_pairs(Distillation(), 12, 5) == ((5, 2), (11, 4))
    assert feature_pairs(Distillation(), 1, 1) == ((0, 0),)
    assert feature_pairs(Distillation(blocks=((3, 1),)), 12, 5) == ((2, 0),)
    with pytest.raises(PlanError, match=r"student has no block 13.*1 to 12"):
        feature_pairs(Distillation(blocks=((13, 1),)), 12, 5)
    with pytest.raises(PlanError, match=r"teacher has no block 0.*1 to 5"):
        feature_pairs(Distillation(blocks=((1, 0),)), 12, 5)
    assert shallow_blocks(Distillation(), 12) == (2, 5, 8)
    assert shallow_blocks(Distillation(), 2) == (0,)
    assert shallow_blocks(Distillation(self_blocks=(4, 1)), 6) == (3, 0)
    with pytest.raises(PlanError, match=r"Block 6 cannot be taught.*1 to 5"):
        shallow_blocks(Distillation(self_blocks=(6,)), 6)
    with pytest.raises(PlanError, match="two blocks or more"):
        shallow_blocks(Distillation(), 1)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"methods": ()}, "Got none"),
        ({"methods": ("responses",)}, r"response, feature, relation, self or tokens.*Got \('responses',\)"),
        ({"methods": ("feature", "feature")}, "each once"),
        ({"weight": 1.1}, "weight must be between 0 and 1"),
        ({"weight": math.nan}, "weight must be between 0 and 1"),
        ({"self_weight": -0.1}, "self_weight"),
        ({"mutual_weight": 2.0}, "mutual_weight"),
        ({"feature_weight": -1.0}, "must not be negative"),
        ({"angle_weight": math.inf}, "must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"teacher_lr": 0.0}, "teacher_lr must be positive"),
        ({"fresh_lr": math.nan}, "fresh_lr must be positive"),
        ({"methods": ("self",), "online": True}, "no teacher to train together with"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        Distillation(**wrong)


class Mute(nn.Module):
    """Says logits and nothing else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize(
    ("told", "teacher", "text"),
    [
        (RESPONSE_T4, None, r"by response needs a teacher.*--teacher"),
        (RESPONSE_T4, replace(small_net(), num_classes=5), r"another number of classes.*Expected 3.*Got 5"),
        (Distillation(methods=("feature",)), Teacher("a mute", Mute(), SPEC, 3), r"by feature.*a mute gives none"),
        (Distillation(methods=("relation",)), Teacher("a mute", Mute(), SPEC, 3), "by relation"),
    ],
)
def test_a_teacher_that_cannot_serve_is_refused(told: Distillation, teacher: Teacher | None, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        teach(told, teacher)


def test_a_mute_teacher_can_answer() -> None:
    trained = teach(RESPONSE_T4, Teacher("a mute", Mute(), SPEC, 3))
    assert math.isfinite(trained.epochs[-1].train_loss)
    with pytest.raises(ModelError, match="no hidden states"):
        outputs_of(Mute(), torch.zeros(1, 1, 8, 8), (0,))


def colour_data() -> Any:
    generator = np.random.default_rng(4)
    pixels = generator.integers(0, 255, (60, 20, 20, 3)).astype(np.uint8)
    return replace(toy_data(), channels=3, size=(20, 20), mirror=True, images=ArrayImages(pixels))


def view(data: Any, student: Preprocessing, teacher: Preprocessing, **options: Any) -> Any:
    changes = Augmentation()
    order = {"batch_size": 8, "seed": 3, "epoch": 2, **options}
    pictures = training_batches(data, data.train, student, changes, **order)
    return next(pictures)[0], next(teacher_views(data, student, teacher, changes, **order))


def test_a_teacher_of_the_same_pixels_reads_the_students_own() -> None:
    images, seen = view(toy_data(), SPEC, replace(SPEC, mean=(0.1,), std=(0.7,)))
    assert seen is None
    assert seen_by(images, SPEC, SPEC) is images
    other = replace(SPEC, mean=(0.1,), std=(0.7,))
    torch.testing.assert_close(seen_by(images, SPEC, other), (images * 0.25 + 0.5 - 0.1) / 0.7)


@pytest.mark.parametrize("skip", [0, 2])
def test_a_larger_teacher_sees_the_same_crop_and_colours(skip: int) -> None:
    data = colour_data()
    student = Preprocessing(10, 10, 3, (0.5,) * 3, (0.25,) * 3, "bilinear")
    teacher = Preprocessing(20, 20, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    _, seen = view(data, student, teacher, skip=skip)
    order = np.random.default_rng([3, 2]).permutation(data.train)[8 * skip :][:8]
    for position, index in enumerate(order):
        generator = np.random.default_rng([3, 2, index])
        expected = normalise(augment(data.images[index], teacher, Augmentation(), generator), teacher)
        torch.testing.assert_close(seen[position].permute(1, 2, 0), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_teacher_and_student_see_one_view_whatever_their_sizes() -> None:
    data = colour_data()
    student = Preprocessing(8, 8, 3, (0.0,) * 3, (1.0,) * 3, "bilinear")
    images, seen = view(data, student, replace(student, height=16, width=16))
    far = view(data, student, replace(student, height=16, width=16), epoch=3)[1]
    shrunk = F.avg_pool2d(seen, 2)
    assert float((shrunk - images).abs().mean()) < 0.5 * float((F.avg_pool2d(far, 2) - images).abs().mean())


@pytest.mark.parametrize("wide", [True, False])
def test_grey_and_colour_go_together(wide: bool) -> None:
    grey = Preprocessing(8, 8, 1, (0.0,), (1.0,), "bilinear")
    colour = Preprocessing(8, 8, 3, (0.0,) * 3, (1.0,) * 3, "bilinear")
    if wide:
        images, seen = view(toy_data(), grey, colour)
        torch.testing.assert_close(seen, images.expand(-1, 3, -1, -1), rtol=1e-5, atol=1e-6)
    else:
        images, seen = view(colour_data(), colour, grey)
        luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        torch.testing.assert_close(seen, luma, rtol=1e-5, atol=1e-5)


def test_a_colour_teacher_of_a_grey_student_sees_colour() -> None:
    grey = Preprocessing(8, 8, 1, (0.0,), (1.0,), "bilinear")
    _, seen = view(colour_data(), grey, Preprocessing(12, 12, 3, (0.0,) * 3, (1.0,) * 3, "bilinear"))
    assert seen.shape == (8, 3, 12, 12)
    assert float((seen[:, 0] - seen[:, 1]).abs().mean()) > 0.05


def test_a_student_of_other_sizes_learns_from_a_real_network() -> None:
    data = toy_data()
    spec = TimmSpec("test_resnet", img_size=32, in_chans=3)
    teacher = timm_teacher(spec, data, SPEC, learns=True)
    told = Distillation(methods=("response", "feature", "relation"))
    trained = teach(told, teacher, recipe=replace(RECIPE, epochs=1))
    assert math.isfinite(trained.epochs[0].train_loss)
    lesson = DistillationLoss(told, teacher, tiny_vit(), SPEC)
    widths = [m.out_features for m in lesson.projections.modules() if isinstance(m, nn.Linear)]
    states = outputs_of(teacher.network, torch.zeros(1, 3, 32, 32), (2, 4)).features
    assert widths == [state.shape[1] for state in states]


def test_unlabelled_pictures_in_a_lesson() -> None:
    data = toy_data()
    labels = data.labels.copy()
    labels[data.train[::2]] = UNLABELLED
    trained = teach(EVERYTHING, small_net(), data=replace(data, labels=labels))
    assert all(math.isfinite(record.train_loss) for record in trained.epochs)
    assert trained.epochs != teach(EVERYTHING, small_net()).epochs
