"""A run of which one file is refused goes on to its end, shows what was refused, and exits with 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pocketvit as library
from export import exporter
from export.exporter import RefusedFilesError
from export.settings import ExportSettings
from pocketvit.options import run_settings
from runtime import METRICS_DOCUMENT, Artifact, ParityError, read_artifact
from tests.pocketvit.conftest import TINY, Command

pytestmark = pytest.mark.slow

SHORT = [*TINY, "--epochs", "1", "--recovery-epochs", "1", "--formats", "onnx,fp32", "--eval-limit", "50"]
BENCH = ["--bench-seconds", "0.1", "--no-energy"]


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of these names are refused."""
    names: list[str] = []
    honest = exporter.check_parity

    def check(artifact: Artifact, least: float | None) -> None:
        if artifact.file in names:
            raise ParityError(f"{artifact.file} is [odd]", got="something else")
        honest(artifact, least)

    monkeypatch.setattr(exporter, "check_parity", check)
    return names


def test_a_run_with_a_refused_file_ends_as_any_other_but_for_that_file(
    tmp_path: Path, pocketvit: Command, strict: list[str]
) -> None:
    strict.append("r.onnx")
    root = tmp_path / "r"
    answer = pocketvit("run", *SHORT, *BENCH, "--name", "r", "--runs", tmp_path)
    assert answer.code == 1
    assert "Refused: r.onnx." in answer.err
    assert "REFUSED: r.onnx (agrees" in answer.out
    assert "r.onnx is [odd]. Got something else." in answer.out
    released = {path.name for path in (root / "artifacts").iterdir() if path.suffix != ".json"}
    assert released == {"baseline.fp32.tflite", "r.fp32.tflite", "rejected"}
    measured = {file["file"] for file in json.loads((root / "bench" / "cpu.json").read_text())["files"]}
    assert measured == {"baseline.fp32.tflite", "r.fp32.tflite"}
    kept = read_artifact(root / "artifacts" / "rejected" / "r.onnx")
    assert kept.refused == "r.onnx is [odd]. Got something else."
    for report in ("report.html", "report.md"):
        text = (root / report).read_text()
        assert "Refused" in text
        assert "did not pass its check" in text
    assert "r.onnx is [odd]" in (root / "report.html").read_text()
    # what --eval-limit left out is left out of every top-1, and said
    assert METRICS_DOCUMENT.read(root / "sliced" / "metrics.json").test_images == 50

    before = {path: path.stat().st_mtime_ns for path in root.rglob("artifacts/**/*") if path.is_file()}
    again = pocketvit("run", *SHORT, *BENCH, "--name", "r", "--runs", tmp_path, "--resume", "--json")
    assert again.code == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    document = json.loads(again.out)
    assert [row["name"] for row in document["rows"]] == ["baseline", "sliced", "baseline.fp32.tflite", "r.fp32.tflite"]
    (refused,) = document["refused"]
    assert (refused["file"], refused["refused"]) == ("r.onnx", kept.refused)

    told = pocketvit(
        "export", root, "--formats", "onnx,fp32", "--calibration-images", 4, "--verify-images", 60, "--json"
    )
    assert told.code == 1
    body = json.loads(told.out)
    assert [artifact["file"] for artifact in body["artifacts"]] == ["baseline.fp32.tflite", "r.fp32.tflite"]
    assert [artifact["file"] for artifact in body["refused"]] == ["r.onnx"]
    assert pocketvit("report", root).code == 0


def test_a_refused_baseline_takes_nothing_down(tmp_path: Path, strict: list[str]) -> None:
    strict.append("baseline.fp32.tflite")
    settings = _settings()
    summary = library.run(settings, tmp_path / "r", bench=_bench())
    assert [artifact.file for artifact in summary.refused] == ["baseline.fp32.tflite"]
    assert [artifact.file for artifact in summary.artifacts] == ["r.fp32.tflite", "r.onnx"]
    assert all(row.on("cpu") for row in summary.rows if row.precision)
    with pytest.raises(RefusedFilesError, match=r"baseline.fp32.tflite is \[odd\]") as caught:
        library.export_run(tmp_path / "r", settings)
    assert [artifact.file for artifact in caught.value.accepted] == ["r.onnx", "r.fp32.tflite"]


def test_python_cannot_overlook_that_an_export_refused_all(tmp_path: Path, strict: list[str]) -> None:
    strict.extend(("x.onnx", "x.fp32.tflite"))
    with pytest.raises(RefusedFilesError) as caught:
        library.export(_settings(), tmp_path / "x")
    assert not caught.value.accepted
    assert [artifact.file for artifact in caught.value.refused] == ["x.onnx", "x.fp32.tflite"]


def test_an_opset_out_of_range_is_known_before_any_work(tmp_path: Path, pocketvit: Command) -> None:
    answer = pocketvit("run", *TINY, "--opset", 16, "--name", "r", "--runs", tmp_path)
    assert answer.code == 2
    assert "an opset of 17 to 23. Got 16" in answer.err
    assert not (tmp_path / "r").exists()
    answer = pocketvit("run", *TINY, "--eval-limit", -1, "--name", "r", "--runs", tmp_path)
    assert answer.code == 2
    assert "--eval-limit must not be negative" in answer.err
    assert _settings().opset == ExportSettings().opset


def _settings() -> Any:
    return run_settings(
        {
            **{"model": "vit_tiny_patch16_224", "img-size": 32, "patch-size": 16, "pretrained": False},
            "model-arg": ("embed_dim=32", "depth=2", "num_heads=2"),
            **{"epochs": 0, "recovery-epochs": 0, "train-limit": 100, "importance-images": 2},
            **{"verify-images": 40, "formats": "onnx,fp32", "threads": 1},
        }
    )


def _bench() -> Any:
    from pocketvit.pipeline.benching import BenchSettings, bench_settings

    settings: BenchSettings = bench_settings(0.1, energy=False)
    return settings
