"""A file that fails its check takes no other down, keeps its figures, and is not made again for nothing."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT, build
from export import exporter
from export.exporter import RefusedFilesError, export_each, export_model
from export.settings import ExportSettings
from runtime import MissingExtraError, ParityError, read_artifact

from .conftest import task_for

pytestmark = pytest.mark.slow

KINDS = ("onnx", "onnx-int8", "fp32", "int8")
SETTINGS = ExportSettings(
    kinds=KINDS, calibration_images=8, verify_images=100, min_agreement=1.0, int8_recipe="dynamic_wi8_afp32"
)


@pytest.fixture(scope="module")
def ties(sliced: SlicedViT) -> SlicedViT:
    """A model whose classes answer nearly the same: integers decide otherwise, floats do not."""
    weights = dict(sliced.state_dict())
    head = weights["head.weight"]
    weights["head.weight"] = head[:1].repeat(len(head), 1) + 1e-2 * head
    weights["head.bias"] = weights["head.bias"] * 0
    return build(sliced.plan, weights)


@dataclass(frozen=True)
class Refused:
    """An export of which the integer files were refused."""

    folder: Path
    error: RefusedFilesError
    made: list[str]

    def copied(self, place: Path) -> Path:
        return shutil.copytree(self.folder, place / "artifacts")


@pytest.fixture(scope="module")
def refused(ties: SlicedViT, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    folder = tmp_path_factory.mktemp("refused")
    with pytest.MonkeyPatch.context() as patched:
        kinds = watched(patched)
        with pytest.raises(RefusedFilesError) as caught:
            export_model(ties, task_for(digits), digits, folder, "m", SETTINGS)
    return Refused(folder, caught.value, kinds)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the kinds that are made from now on."""
    kinds: list[str] = []
    honest = exporter.write_file

    def make(job: Any, kind: Any, *more: Any) -> Any:
        kinds.append(kind.name)
        return honest(job, kind, *more)

    monkeypatch.setattr(exporter, "write_file", make)
    return kinds


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds that are made from now on."""
    return watched(monkeypatch)


def test_every_kind_is_tried_and_the_refused_are_not_tried_again(
    refused: Refused, ties: SlicedViT, digits: Dataset, made: list[str]
) -> None:
    error, folder = refused.error, refused.folder
    assert isinstance(error, ParityError)
    assert error.exit_code == 1
    assert re.search(r"m\.int8\.onnx agrees too seldom.*m\.int8\.tflite.*rejected", str(error))
    assert refused.made == ["onnx", "fp32", "onnx-int8", "int8"]  # float files first
    assert [artifact.file for artifact in error.accepted] == ["m.onnx", "m.fp32.tflite"]
    assert [artifact.file for artifact in error.refused] == ["m.int8.onnx", "m.int8.tflite"]
    for artifact in error.accepted:
        assert read_artifact(folder / artifact.file) == artifact
        assert artifact.refused is None
    for artifact in error.refused:
        assert not (folder / artifact.file).exists()
        kept = read_artifact(folder / "rejected" / artifact.file)
        assert kept == artifact
        assert kept.refused is not None
        assert "agrees too seldom" in kept.refused
        assert kept.parity.top1_agreement < 1.0
        assert kept.trials

    again = export_each(ties, task_for(digits), digits, folder, "m", SETTINGS)
    assert made == []
    assert (again.accepted, again.refused) == (error.accepted, error.refused)


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"min_agreement": 0.0}, ["onnx-int8", "int8"]),
        ({"verify_images": 60}, ["onnx-int8", "int8"]),
        ({"max_drop": 0.5}, ["onnx-int8", "int8"]),
        ({"opset": 18}, ["onnx", "onnx-int8"]),
    ],
)
def test_other_settings_make_the_refused_again(
    refused: Refused,
    ties: SlicedViT,
    digits: Dataset,
    tmp_path: Path,
    made: list[str],
    change: dict[str, Any],
    redone: list[str],
) -> None:
    folder = refused.copied(tmp_path)
    outcome = export_each(ties, task_for(digits), digits, folder, "m", replace(SETTINGS, **change))
    assert made == redone
    rejected = {path.name for path in (folder / "rejected").iterdir() if path.suffix != ".json"}
    assert rejected == {artifact.file for artifact in outcome.refused}
    if change == {"min_agreement": 0.0}:
        assert not rejected
        assert len(outcome.accepted) == len(KINDS)


def test_a_file_that_no_longer_passes_is_not_left_among_the_released(
    ties: SlicedViT, digits: Dataset, tmp_path: Path
) -> None:
    loose = replace(SETTINGS, kinds=("onnx-int8",), min_agreement=0.0, int8_recipe="")
    assert export_model(ties, task_for(digits), digits, tmp_path, "m", loose)
    outcome = export_each(ties, task_for(digits), digits, tmp_path, "m", replace(loose, min_agreement=1.0))
    assert not outcome.accepted
    assert not list(tmp_path.glob("m.int8.onnx*"))
    assert {path.name for path in (tmp_path / "rejected").iterdir()} == {"m.int8.onnx", "m.int8.onnx.json"}


def test_an_unexpected_failure_of_one_kind_is_raised_when_all_others_are_made(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*how: Any, **more: Any) -> None:
        raise ValueError("a fault of ours")

    settings = ExportSettings(kinds=("onnx", "fp32", "torch"), verify_images=20)
    with monkeypatch.context() as patched:
        patched.setattr("export.formats.onnx.vit_graph", broken)
        with pytest.raises(ValueError, match="a fault of ours"):
            export_model(sliced, task_for(digits), digits, tmp_path, "m", settings)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json") == ["m.fp32.tflite", "m.pt2"]
    made.clear()
    assert len(export_model(sliced, task_for(digits), digits, tmp_path, "m", settings)) == 3
    assert made == ["onnx"]


def test_a_missing_package_is_told_before_any_file_is_made(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(MissingExtraError, match="onnxruntime"):
        export_model(sliced, task_for(digits), digits, tmp_path / "new", "m", ExportSettings(kinds=("fp32", "onnx")))
    assert not made
    assert not (tmp_path / "new").exists()
