"""A disk that is too small is found before the work, by every command that writes models."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from compress.model.load import ModelSpec, check_model
from pocketvit.pipeline import stage
from pocketvit.study import conduct
from pocketvit.study.definition import read_study
from runtime import StorageError, params
from tests.pocketvit.conftest import TINY, Command
from tests.pocketvit.study.study_fixtures import STUDY

Usage = namedtuple("Usage", "total used free")
PLAN = check_model(
    ModelSpec("vit_tiny_patch16_224", 32, 16, 1, overrides={"embed_dim": 32, "depth": 2, "num_heads": 2}), 10
)


@pytest.fixture
def little_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 2**20))


@pytest.mark.usefixtures("little_space")
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", *TINY),
        ("compress", *TINY),
        ("export", *TINY[:12], "--no-pretrained", "--in-chans", "1"),
        ("distill", *TINY[:12], "--method", "self"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_full_disk_is_found_before_any_training(
    pocketvit: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    answer = pocketvit(*arguments, "--name", "full", "--runs", tmp_path)
    said = " ".join(answer.err.split())
    assert answer.code == 2, answer.err
    assert "There is not enough space" in said
    assert "MB free. Got 1 MB." in said
    assert "epoch" not in said
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.usefixtures("little_space")
def test_a_study_looks_at_all_its_cells_before_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "_make", lambda *_: pytest.fail("a cell was begun"))
    (tmp_path / "study.toml").write_text(STUDY.format(more=""))
    with pytest.raises(StorageError, match="not enough space"):
        conduct.conduct(read_study(tmp_path / "study.toml"), tmp_path / "study", conduct.Orders())


def test_what_is_needed_goes_by_the_weights_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("onnx", "fp32", "int8")
    needed = 5 * 4 * params(PLAN) + stage._SPARE_BYTES
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(2**40, 0, free))
        if fits:
            stage.check_space(tmp_path / "not" / "there", PLAN, stage.export_copies(kinds))
        else:
            with pytest.raises(StorageError, match=r"not enough space in .*there"):
                stage.check_space(tmp_path / "not" / "there", PLAN, stage.export_copies(kinds))
