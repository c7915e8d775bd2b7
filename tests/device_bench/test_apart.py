from __future__ import annotations

from pathlib import Path

import pytest

from device_bench import Sampling, bench_apart
from runtime import ArtifactError, MeasurementError, UnsupportedTargetError

from .conftest import write_onnx


def test_it_measures_what_a_bench_measures_and_relays_progress(tmp_path: Path) -> None:
    file = tmp_path / "tiny.onnx"
    write_onnx(file, (1, 4))
    told: list[str] = []
    result = bench_apart(
        [file], sampling=Sampling.exactly(5), seed=3, progress=lambda stage, done, total, note="": told.append(stage)
    )
    assert [measured.file for measured in result.files] == ["tiny.onnx"]
    latency = result.files[0].latency
    assert latency is not None
    assert len(latency.values) == 5
    assert result.seed == 3
    assert {"load", "measure"} <= set(told)


def test_errors_arrive_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx does not exist"):
        bench_apart([tmp_path / "none.onnx"])
    file = tmp_path / "tiny.onnx"
    write_onnx(file, (1, 4))
    with pytest.raises(UnsupportedTargetError, match="toaster"):
        bench_apart([file], "toaster")
    with pytest.raises(MeasurementError, match="different names"):
        bench_apart([])


def test_a_process_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    file = tmp_path / "tiny.onnx"
    write_onnx(file, (1, 4))
    with pytest.raises(MeasurementError, match="ended with status 1"):
        bench_apart([file])
