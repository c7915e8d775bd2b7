"""A float16 file may be computed in float16 only where a simulation on calibration images allows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.data.dataset import Dataset
from export.exporter import export_model
from export.formats.tflite import HALF_ARITHMETIC, HALF_METADATA, write_tflite
from export.graph.file_model import tflite_model
from export.half_arithmetic import judge_half
from export.inspect.lint.half_run import FloatFile, HalfRun
from export.job import ExportJob
from export.settings import ExportSettings
from runtime import Artifact, macs, read_artifact, write_artifact
from tests.compress.model.test_half_range import loud
from tests.export.conftest import task_for
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of
from tests.export.graph.test_canonical import digits_model


def written(factor: float, path: Path) -> Path:
    write_tflite(loud(model_of(ARCHITECTURES["vit"]), factor), path, half=True)
    return path


def test_a_model_in_range_may_be_computed_in_float16(tmp_path: Path) -> None:
    plan = ARCHITECTURES["vit"]
    images = images_for(plan, 4).numpy()
    found = judge_half(written(1.0, tmp_path / "m.tflite"), images, macs(plan))
    assert (found.metadata, found.reason) == (HALF_ARITHMETIC, None)
    assert (found.images, found.simulated, found.step, found.top1_agreement) == (4, 4, 1, 1.0)
    assert found.sqnr_db is not None
    assert 35 < found.sqnr_db < 70
    assert found.largest is not None
    assert 1 < found.largest < 65_504
    assert found.largest_at


def test_a_model_that_overflows_may_not_and_the_first_operator_is_named(tmp_path: Path) -> None:
    plan = ARCHITECTURES["vit"]
    found = judge_half(written(400.0, tmp_path / "m.tflite"), images_for(plan, 2).numpy(), macs(plan))
    assert found.metadata is None
    assert found.reason is not None
    assert "'blocks.0.norm1.square'" in found.reason
    assert "65504" in found.reason
    assert (found.sqnr_db or 0.0) < 3


def test_noisy_outputs_are_refused_though_nothing_overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, run = ARCHITECTURES["vit"], FloatFile.run

    def noisy(self, images, *arguments, **options) -> HalfRun:  # type: ignore[no-untyped-def]
        found = run(self, images, *arguments, **options)
        noise = np.random.default_rng(0).standard_normal(found.half.shape).astype(np.float32)
        return replace(found, half=found.half + 0.1 * noise * np.abs(found.single).max())

    monkeypatch.setattr(FloatFile, "run", noisy)
    found = judge_half(written(1.0, tmp_path / "m.tflite"), images_for(plan, 4).numpy(), macs(plan))
    assert found.metadata is None
    assert "30 are needed" in str(found.reason)
    assert found.sqnr_db is not None


def test_without_images_nothing_is_allowed(tmp_path: Path) -> None:
    found = judge_half(written(1.0, tmp_path / "m.tflite"), None, 1)
    assert (found.metadata, found.images) == (None, 0)
    assert "no calibration images" in str(found.reason)


def exported(digits: Dataset, folder: Path, factor: float) -> Artifact:
    model = loud(digits_model(), factor)
    some = replace(digits, held_out=digits.held_out[:8])
    settings = ExportSettings(("fp16",), verify_images=40)
    export_model(model, task_for(digits, trained=False), some, folder, "m", settings)
    return read_artifact(folder / "m.fp16.tflite")


@pytest.mark.slow
def test_the_exporter_writes_the_metadata_or_says_why_not(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = exported(digits, tmp_path / "quiet", 1.0)
    assert allowed.half is not None
    assert allowed.half.metadata == HALF_ARITHMETIC
    assert tflite_model(tmp_path / "quiet" / "m.fp16.tflite").metadata == {HALF_METADATA: HALF_ARITHMETIC}
    kept = (tmp_path / "quiet" / "m.fp16.tflite").stat().st_mtime_ns
    assert exported(digits, tmp_path / "quiet", 1.0) == allowed
    assert (tmp_path / "quiet" / "m.fp16.tflite").stat().st_mtime_ns == kept
    # a file of an earlier version says nothing of float16 and is written again
    write_artifact(tmp_path / "quiet" / "m.fp16.tflite", replace(allowed, half=None))
    assert exported(digits, tmp_path / "quiet", 1.0) == allowed
    rescued = exported(digits, tmp_path / "loud", 3000.0)
    assert rescued.half is not None
    assert rescued.half.metadata == HALF_ARITHMETIC
    # without the scale of the stream, the same model overflows and is caught before its file is written
    monkeypatch.setattr(ExportJob, "in_half_range", lambda self, progress: self)
    refused = exported(digits, tmp_path / "overflowing", 3000.0)
    assert refused.half is not None
    assert refused.half.metadata is None
    assert "float16's largest number" in str(refused.half.reason)
    assert tflite_model(tmp_path / "overflowing" / "m.fp16.tflite").metadata == {}
    assert refused.refused is None
