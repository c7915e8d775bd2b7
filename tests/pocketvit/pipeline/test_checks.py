"""Checkpoints that count as fine-tuned, asked before the work begins; answers are made up, so nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from compress.data.class_order import sorted_names
from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.distill.teachers import Teacher
from device_bench.report.summary import summarise
from pocketvit.pipeline import run as pipeline
from pocketvit.pipeline.checks import check_answers, check_fine_tuned, check_teacher, near_chance, other_orders, sample
from pocketvit.pipeline.job import prepare
from pocketvit.settings import RunSettings
from pocketvit.train_settings import TrainSettings
from runtime import ModelError, silent

NAMES = tuple(map(str, range(1, 13)))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    for name in NAMES:
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("L", (4, 4), 10 * int(name) + i % 10).save(tmp_path / name / f"{i}.png")
    return load_data(f"imagefolder:{tmp_path}")


def answering(data: Dataset, names: Sequence[str], right: float) -> Callable[..., npt.NDArray[np.float32]]:
    """Returns a model whose outputs are in the order of ``names``, right on a share of the images."""
    generator = np.random.default_rng(1)

    def logits(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        own = np.array([names.index(data.class_names[label]) for label in data.labels[indices]])
        wrong = generator.random(len(own)) >= right
        answers = np.where(wrong, generator.integers(0, len(names), len(own)), own)
        return np.eye(len(names), dtype=np.float32)[answers]

    return logits


def judge(data: Dataset, names: Sequence[str], right: float, causes: Sequence[str] = ()) -> object:
    orders, told = other_orders(data), []
    found = check_answers(
        "The checkpoint x.pth",
        answering(data, names, right),
        data,
        sample(data),
        orders,
        lambda stage, done, total, note="": told.append(note) if total == 0 else None,
        causes,
    )
    assert tuple(told) == found.warnings
    return found


def test_the_sample_is_held_out_first_and_never_of_the_test_split(data: Dataset) -> None:
    chosen = sample(data)
    assert len(chosen) == len(set(chosen)) == 128
    assert set(data.held_out) <= set(chosen)
    assert not set(chosen) & set(data.test)
    assert np.bincount(data.labels[chosen], minlength=12).min() >= 9
    digits = load_data("digits")
    assert set(sample(digits)) <= set(digits.held_out)


def test_a_checkpoint_in_natural_order_is_refused_with_the_cure(data: Dataset) -> None:
    with pytest.raises(ModelError) as caught:
        judge(data, NAMES, 0.7)
    text = str(caught.value)
    assert "The checkpoint x.pth knows the classes in natural order" in text
    assert "(1, 2, 3, 4, …)" in text
    assert "Got the order 1, 10, 11, 12, …" in text
    assert text.endswith("Give --class-order natural.")


def test_one_in_text_order_is_refused_where_natural_was_asked_for(tmp_path: Path, data: Dataset) -> None:
    natural = load_data(f"imagefolder:{tmp_path}", class_order="natural")
    with pytest.raises(ModelError, match=r"in text order.*Give --class-order text\."):
        judge(natural, sorted(NAMES), 0.7)
    assert not judge(natural, NAMES, 0.7).near_chance


def test_the_right_order_passes_without_a_word(data: Dataset) -> None:
    found = judge(data, sorted(NAMES), 0.7)
    assert (found.near_chance, found.warnings, found.images) == (False, (), 128)
    assert 0.6 < found.top1 < 0.85
    assert abs(found.chance - 1 / 12) < 0.01


def test_where_both_orders_are_one_none_is_compared() -> None:
    assert other_orders(load_data("digits")) == ()


def test_chance_is_warned_of_with_its_causes(data: Dataset) -> None:
    found = judge(data, sorted(NAMES), 0.0, ["it was resampled from patches of 16"])
    assert found.near_chance
    (text,) = found.warnings
    assert "counts as fine-tuned and is right on" in text
    assert "near chance (8." in text
    for cause in ("it was resampled from patches of 16", "--class-order natural", "--mean", "trained on other data"):
        assert cause in text


def test_a_shuffled_order_is_found_and_said(data: Dataset) -> None:
    shuffled = tuple(np.random.default_rng(5).permutation(NAMES).tolist())
    found = judge(data, shuffled, 0.9)
    assert "with --class-map FILE" not in found.warnings[0]
    assert any("would be right on" in text and "--class-map FILE" in text for text in found.warnings)


def test_two_exchanged_classes_are_found_though_the_score_is_good(data: Dataset) -> None:
    names = list(sorted(NAMES))
    for one, other in ((0, 1), (2, 3), (4, 5)):
        names[one], names[other] = names[other], names[one]
    found = judge(data, names, 1.0)
    assert not found.near_chance
    (text,) = found.warnings
    assert "with 6 of its classes in other places" in text


@pytest.mark.parametrize(
    ("right", "images", "chance", "classes", "expected"),
    [
        (64, 128, 0.5, 2, True),
        (70, 128, 0.5, 2, True),
        (77, 128, 0.5, 2, False),
        (116, 128, 0.9, 2, True),  # what the larger class alone would reach
        (125, 128, 0.9, 2, False),
        (51, 512, 0.1, 10, True),
        (90, 512, 0.1, 10, True),  # above chance, and still of no use
        (120, 512, 0.1, 10, False),
        (0, 512, 0.001, 1000, True),
        (400, 512, 0.001, 1000, False),
        (2, 3, 0.5, 2, False),  # too few to tell
        (0, 128, 0.1, 10, True),
        (128, 128, 0.1, 10, False),
    ],
)
def test_what_counts_as_near_chance(right: int, images: int, chance: float, classes: int, expected: bool) -> None:
    assert near_chance(right, images, chance, classes) is expected


def test_the_orders_are_those_that_the_options_know(data: Dataset) -> None:
    assert other_orders(data) == (("natural", NAMES),)
    turned = replace(data, class_names=tuple(reversed(NAMES)))
    assert other_orders(turned) == (("text", tuple(sorted(NAMES))), ("natural", sorted_names(NAMES, "natural")))
    assert silent("a", 0, 0) is None


@pytest.fixture
def untrained(tmp_path: Path) -> RunSettings:
    """Settings with a checkpoint whose head fits the digits and which knows nothing of them."""
    torch.manual_seed(0)
    arguments = {"img_size": 32, "patch_size": 16, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 2}
    save_file(
        timm.create_model("vit_tiny_patch16_224", num_classes=10, **arguments).state_dict(), tmp_path / "w.safetensors"
    )
    return RunSettings(
        model="vit_tiny_patch16_224",
        img_size=32,
        patch_size=16,
        in_chans=1,
        model_args={"embed_dim": 32, "depth": 2, "num_heads": 2},
        checkpoint=str(tmp_path / "w.safetensors"),
        recover=TrainSettings(epochs=0),
        importance_images=2,
        train_limit=100,
        threads=1,
    )


def test_a_checkpoint_near_chance_is_warned_of_before_the_work(untrained: RunSettings, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    pipeline.compress(
        untrained, tmp_path / "run", progress=lambda stage, done, total, note="": told.append((stage, note))
    )
    stages = [stage for stage, _ in told]
    assert stages.index("warning") < stages.index("sensitivity")
    (warning,) = [note for stage, note in told if stage == "warning"]
    assert "w.safetensors counts as fine-tuned" in warning
    assert warning in summarise(tmp_path / "run").notes
    # continued, it was checked before
    told.clear()
    pipeline.compress(
        untrained, tmp_path / "run", resume=True, progress=lambda s, d, t, note="": told.append((s, note))
    )
    assert "check checkpoint" not in [stage for stage, _ in told]


def test_weights_that_are_trained_first_are_not_asked(untrained: RunSettings) -> None:
    assert check_fine_tuned(prepare(replace(untrained, fine_tune=TrainSettings(epochs=1)))) is None
    assert check_fine_tuned(prepare(replace(untrained, reset_head=True))) is None
    assert check_fine_tuned(prepare(RunSettings(fine_tune=TrainSettings(epochs=0)))) is None
    found = check_fine_tuned(prepare(untrained, own_classes=True))
    assert found is not None
    assert found.near_chance


class Constant(torch.nn.Module):
    """Answers with one class, whatever it is shown."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[torch.full((len(images),), 3)]


def test_a_teacher_near_chance_is_warned_of() -> None:
    job = prepare(RunSettings())
    found = check_teacher(Teacher("timm x", Constant(), job.task.preprocessing, 10), job)
    assert found is not None
    assert found.near_chance
    assert found.warnings[0].startswith("The teacher timm x counts as fine-tuned")
