from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compress.model.folder import save_model
from compress.model.load import ModelSpec, weights_metadata
from compress.model.metadata import is_stretched, names_in_checkpoint
from runtime import ModelError, Preprocessing
from tests.compress.tiny import tiny_vit

from .test_folder import TASK


def test_statistics_are_those_of_the_published_weights() -> None:
    found = weights_metadata(ModelSpec("vit_tiny_patch16_224"))
    assert (found.mean, found.std, found.interpolation, found.crop_pct) == ((0.5,) * 3, (0.5,) * 3, "bicubic", 0.9)
    gray = weights_metadata(ModelSpec("deit_tiny_patch16_224", in_chans=1))
    assert gray.mean == (round((0.485 + 0.456 + 0.406) / 3, 6),)


def test_the_preprocessing_crops_as_the_weights_expect_or_stretches() -> None:
    found = weights_metadata(ModelSpec("vit_tiny_patch16_224"))
    half = (0.5,) * 3
    assert found.preprocessing(224, 160, stretch=False) == Preprocessing(
        224, 160, 3, half, half, "bicubic", "center", 0.9
    )
    assert found.preprocessing(32, 32, stretch=True) == Preprocessing(32, 32, 3, half, half, "bicubic", "stretch", 1.0)


@pytest.mark.parametrize(
    ("picture", "height", "width", "stretched"),
    [((8, 8), 32, 32, True), ((8, 9), 32, 32, False), ((8, 8), 32, 16, False), (None, 32, 32, False)],
)
def test_square_pictures_are_stretched_to_a_square_input(
    picture: tuple[int, int] | None, height: int, width: int, stretched: bool
) -> None:
    assert is_stretched(picture, height, width) is stretched


def test_a_checkpoint_brings_its_names_unless_its_head_is_reset(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    spec = ModelSpec("vit_tiny_patch16_224", checkpoint=tmp_path / "model.safetensors")
    assert weights_metadata(spec).class_names == TASK.class_names
    assert weights_metadata(ModelSpec(spec.name, checkpoint=spec.checkpoint, reset_head=True)).class_names is None


def test_our_checkpoints_carry_their_classes(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    assert names_in_checkpoint(tmp_path / "model.safetensors") == TASK.class_names == ("cat", "dög", "a/b")
    # alone, without the folder around it
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert names_in_checkpoint(tmp_path / "other.safetensors") == TASK.class_names


def test_older_model_folders_name_their_classes_beside(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert names_in_checkpoint(tmp_path / "model.safetensors") == TASK.class_names
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    assert names_in_checkpoint(tmp_path / "foreign.safetensors") is None
    assert names_in_checkpoint(tmp_path / "none.safetensors") is None
    assert names_in_checkpoint(tmp_path / "x.pth") is None
    (tmp_path / "task.json").write_text("{")
    assert names_in_checkpoint(tmp_path / "model.safetensors") is None


@pytest.mark.parametrize("text", ["{", "[]", "[1]", '"a"'])
def test_damaged_names_are_refused(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"pocketvit.class_names": text})
    with pytest.raises(ModelError, match="are damaged"):
        names_in_checkpoint(tmp_path / "a.safetensors")
