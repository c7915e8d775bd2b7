"""The page of models: what it lists is what timm has, and times are taken again where a file has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import which_model

from compress.model.load import ModelSpec
from compress.model.other import is_other
from device_bench.documents.measurement import Sampling
from device_bench.targets.bench import bench
from tests.export.small import LEAST, small_file


@pytest.mark.parametrize("name", which_model.MODELS)
def test_every_model_has_a_plan_or_needs_a_converter_as_listed(name: str) -> None:
    own = which_model.MODELS[name]
    size = own.img_size if own.planned else None
    assert is_other(ModelSpec(own.architecture, img_size=size)) is not own.planned
    assert own.planned or own.share == 1


def test_times_of_the_same_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(files: list[Path], *args: object, **options: object) -> object:
        calls.append(files)
        return bench(files, "cpu", threads=1, sampling=Sampling(min_samples=3, max_samples=3))

    monkeypatch.setattr(which_model, "bench", counted)
    (tmp_path / "one").mkdir()
    for kind in which_model.KINDS:
        small_file(which_model.file_of("one", kind, tmp_path))
    first = which_model.time(["one"], tmp_path, 0.1)
    assert which_model.time(["one"], tmp_path, 0.1) == first
    assert len(calls) == 1
    small_file(which_model.file_of("one", "int8", tmp_path), LEAST)
    assert which_model.time(["one"], tmp_path, 0.1) != first
    assert len(calls) == 2


def test_the_report_holds_every_file_and_its_times(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    files = [small_file(which_model.file_of("one", kind, tmp_path)) for kind in which_model.KINDS]
    measured = bench(files, "cpu", threads=1, sampling=Sampling(min_samples=3, max_samples=3))
    which_model.report(["one"], measured, tmp_path, tmp_path / "all")
    text = (tmp_path / "all" / "report.md").read_text(encoding="utf-8")
    assert all(file.name in text for file in files)
    assert (tmp_path / "all" / "report.html").is_file()
