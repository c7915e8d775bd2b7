"""What a run makes of somebody's checkpoint, and what it says of it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from compress.model.folder import read_task
from pocketvit.pipeline.job import PreparedRun, prepare
from pocketvit.settings import RunSettings
from pocketvit.train_settings import TrainSettings
from runtime import ModelError, PocketVitWarning
from tests.pocketvit.conftest import TINY, Command

SHAPE: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(MODEL, img_size=32, patch_size=16, in_chans=1, num_classes=10, **SHAPE)
    return dict(model.state_dict())


def prepared(path: Path, own_classes: bool = False, **changes: Any) -> tuple[PreparedRun, str]:
    values = {"img_size": 32, "patch_size": 16, **changes}
    settings = RunSettings(model=MODEL, in_chans=1, model_args=SHAPE, checkpoint=str(path), threads=1, **values)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        job = prepare(settings, own_classes=own_classes)
    return job, "\n".join(str(one.message) for one in caught if issubclass(one.category, PocketVitWarning))


@pytest.fixture
def checkpoint(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    torch.save({"state_dict": weights}, tmp_path / "model.pth.tar")
    return tmp_path / "model.pth.tar"


def test_a_checkpoint_that_fits_counts_as_fine_tuned_and_nothing_is_said(checkpoint: Path) -> None:
    job, notes = prepared(checkpoint)
    assert job.fine_tune.epochs == 0
    assert (notes, job.notes) == ("", ())
    assert job.task.source == f"timm {MODEL}, weights from model.pth.tar"


def test_weights_for_other_patches_do_not_count_as_fine_tuned(checkpoint: Path) -> None:
    job, notes = prepared(checkpoint, patch_size=8)
    assert job.fine_tune.epochs > 0
    assert "resampled (patches 16x16 to 8x8 pixels, positions 2x2 to 4x4)" in notes
    assert "do not count as fine-tuned: they are trained first; --epochs 0 takes them" in notes
    assert job.notes == tuple(notes.splitlines())
    assert job.task.source.endswith("resampled: patches 16x16 to 8x8 pixels, positions 2x2 to 4x4")


def test_weights_for_another_image_count_as_fine_tuned_and_the_cure_is_said(checkpoint: Path) -> None:
    job, notes = prepared(checkpoint, img_size=64)
    assert job.fine_tune.epochs == 0
    assert "resampled (positions 2x2 to 4x4)" in notes
    assert "--epochs 30 trains them at this size first" in notes
    asked, notes = prepared(checkpoint, img_size=64, fine_tune=TrainSettings(epochs=2))
    assert asked.fine_tune.epochs == 2
    assert "--epochs" not in notes


def test_an_export_of_resampled_weights_says_that_nothing_trains_them(checkpoint: Path) -> None:
    job, notes = prepared(checkpoint, own_classes=True, patch_size=8)
    assert "exported as they are" in notes
    assert job.task.trained


def test_an_export_with_a_fresh_classifier_is_not_called_trained(tmp_path: Path, weights: Any) -> None:
    torch.save({k: v for k, v in weights.items() if not k.startswith("head")}, tmp_path / "features.pth")
    job, notes = prepared(tmp_path / "features.pth", own_classes=True)
    assert "gets a fresh one" in notes
    assert not job.task.trained


def test_weights_that_are_no_numbers_are_refused_before_the_data_is_read(tmp_path: Path, weights: Any) -> None:
    torch.save(weights | {"norm.weight": torch.full((32,), float("nan"))}, tmp_path / "diverged.pt")
    with pytest.raises(ModelError, match=r"'norm\.weight'"):
        prepared(tmp_path / "diverged.pt", data="imagefolder:/nowhere")


def test_weights_that_do_not_fit_are_refused_before_the_data_is_read(tmp_path: Path, weights: Any) -> None:
    torch.save(weights | {"blocks.2.norm1.weight": torch.ones(32)}, tmp_path / "deep.pt")
    with pytest.raises(ModelError, match="has 3 blocks, the model 2"):
        prepared(tmp_path / "deep.pt", data="imagefolder:/nowhere")


@pytest.mark.slow
def test_the_command_line_says_it_once_and_the_run_keeps_it(
    pocketvit: Command, tmp_path: Path, checkpoint: Path
) -> None:
    said = "model.pth.tar was trained at another size and is resampled (positions 2x2 to 4x4)"
    arguments = [*TINY, "--in-chans", 1, "--img-size", 64, "--checkpoint", checkpoint, "--runs", tmp_path]
    changes = ("--epochs", 0, "--recovery-epochs", 0, "--name", "resampled", "--json")
    answer = pocketvit("compress", *arguments, *changes)
    assert answer.code == 0, answer.err
    assert " ".join(answer.err.split()).count(f"Note: {said}") == 1
    json.loads(answer.out)
    log = [json.loads(line) for line in (tmp_path / "resampled" / "log.jsonl").read_text().splitlines()]
    assert any(line["event"] == "note" and said in line["text"] for line in log)
    for place in ("baseline", "sliced"):
        assert "resampled: positions 2x2 to 4x4" in read_task(tmp_path / "resampled" / place).source
