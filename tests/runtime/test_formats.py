from __future__ import annotations

from pathlib import Path

import pytest

from runtime import ArtifactError
from runtime.engines import ENGINES, devices, engine_of
from runtime.formats import FORMATS, format_of, is_model_file, model_files, suffixes


def test_every_format_has_its_own_suffix_and_an_engine_that_reads_it() -> None:
    assert len(set(suffixes())) == len(FORMATS)
    for name, form in FORMATS.items():
        assert form.name == name
        assert name in ENGINES[form.engine].formats
        assert engine_of(Path(f"model{form.suffix}")).name == form.engine


def test_the_format_of_a_file_is_that_of_its_suffix(tmp_path: Path) -> None:
    assert format_of(Path("a.int8.onnx")).name == "onnx"
    assert not is_model_file(tmp_path / "a.pth")
    with pytest.raises(ArtifactError, match=r"a\.pth is not a model file\. Expected a file that ends in \.onnx, "):
        format_of(tmp_path / "a.pth")


def test_the_model_files_of_a_folder_are_sorted(tmp_path: Path) -> None:
    for name in ("b.onnx", "a.pt2", "c.tflite", "a.pt2.json", "d.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in model_files(tmp_path)] == ["a.pt2", "b.onnx", "c.tflite"]


def test_engines_name_what_installs_them() -> None:
    assert {kind.name: kind.fix for kind in ENGINES.values()} == {
        "litert": "pip install 'pocketvit[litert]'",
        "litert-gpu": "pip install 'pocketvit[litert]'",
        "onnxruntime": "pip install 'pocketvit[onnx]'",
        "torch": "pip install 'pocketvit[compress]'",
    }
    assert devices() == ("cpu", "gpu", "cuda", "tensorrt")
