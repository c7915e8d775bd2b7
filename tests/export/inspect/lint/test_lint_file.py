"""A file is linted with the images that there are, and one without says what was not checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.formats.tflite import write_int8, write_tflite
from export.inspect.inspection import lint_file
from export.inspect.lint.lint_file import lint
from export.quantise.recipes import DYNAMIC
from runtime import ArtifactError, DataError, UnsupportedTargetError
from tests.compress.model.test_half_range import loud
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of
from tests.export.small import small_file


def stored(path: Path, count: int = 3) -> Path:
    np.savez(path, images=images_for(ARCHITECTURES["vit"], count).numpy())
    return path


def test_overflow_is_found_with_operator_tensor_value_and_cure(tmp_path: Path) -> None:
    path, images = tmp_path / "m.fp32.tflite", stored(tmp_path / "images.npz")
    write_tflite(loud(model_of(ARCHITECTURES["vit"]), 400.0), path)
    found = lint_file(path, "gpu", images)
    assert not found.clean
    assert {own.rule for own in found.findings} == {"float16 overflow"}
    first = found.findings[0]
    assert (first.op, first.tensor) == ("MUL #6", "blocks.0.norm1.square")
    assert "values up to" in first.found
    assert "Scale what writes into the residual stream" in first.cure
    sums = [own for own in found.findings if own.op.startswith("MEAN")]
    assert "a sum of" in sums[0].found or "values up to" in sums[0].found
    assert found.half is not None
    assert (found.half.file, found.half.source, found.half.images) == (path.name, "images.npz", 3)
    assert (found.half.sqnr_db or 0.0) < 3  # the reciprocal root of infinity is 0: wrong and finite
    quiet = tmp_path / "quiet.fp32.tflite"
    write_tflite(model_of(ARCHITECTURES["vit"]), quiet)
    clean = lint(quiet, "gpu", images)
    assert clean.clean
    assert clean.half is not None
    assert 35 < (clean.half.sqnr_db or 0.0) < 70


def test_an_integer_file_is_checked_by_the_float_file_beside_it(tmp_path: Path) -> None:
    model, images = model_of(ARCHITECTURES["vit"]), stored(tmp_path / "images.npz")
    path = tmp_path / "m.int8.tflite"
    write_int8(model, path, images_for(model.plan, 8).numpy(), DYNAMIC)
    alone = lint(path, "gpu", images)
    assert alone.half is None
    assert "Float16 cannot be simulated for m.int8.tflite" in str(alone.half_reason)
    write_tflite(model, tmp_path / "m.fp32.tflite")
    beside = lint(path, "gpu", images)
    assert beside.half is not None
    assert beside.half.file == "m.fp32.tflite"


def test_what_was_not_checked_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_tflite(model_of(ARCHITECTURES["vit"]), path)
    found = lint(path, "gpu")
    assert found.clean
    assert found.half_reason == "there are no images: name some with --images"
    assert "computes the file as it is" in str(lint(path, "cpu").half_reason)


def test_bad_calls(tmp_path: Path) -> None:
    path = small_file(tmp_path / "m.tflite")
    with pytest.raises(UnsupportedTargetError, match="Unknown engine to lint for"):
        lint_file(path, "tpu")
    with pytest.raises(UnsupportedTargetError, match=r"m\.onnx cannot be linted"):
        lint_file(small_file(tmp_path / "m.onnx"), "cpu")
    with pytest.raises(ArtifactError, match="does not exist"):
        lint_file(path, "gpu", tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(DataError, match="do not fit"):
        lint_file(path, "gpu", tmp_path / "other.npz")
    (tmp_path / "broken.tflite").write_bytes(path.read_bytes()[:500])
    with pytest.raises(ArtifactError):
        lint_file(tmp_path / "broken.tflite", "static-int8")


def test_linting_loads_no_torch() -> None:
    code = "import sys, export.inspect.lint.lint_file, export.inspect.lint.engines as e; list(e.LINTED.values())\n"
    subprocess.run([sys.executable, "-c", f"{code}assert 'torch' not in sys.modules"], check=True)
