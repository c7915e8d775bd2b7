"""Files for apps of a finished run, as a user asks for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import read_artifact
from runtime.formats import model_files
from tests.pocketvit.conftest import Command

pytestmark = pytest.mark.slow


def test_they_come_on_top_of_what_a_run_has(tiny_run: Path, tmp_path: Path, pocketvit: Command) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_run, folder)
    before = {path: path.stat().st_mtime_ns for path in model_files(folder / "artifacts")}
    asked = ("--formats", "fp32", "--app", "--app-input", "uint8", "--verify-images", 60, "--min-agreement", 0)
    answer = pocketvit("export", folder, *asked, "--json")
    assert answer.code == 0, answer.err
    assert [own["file"] for own in json.loads(answer.out)["artifacts"]] == [
        "baseline.fp32.tflite",
        "tiny.fp32.tflite",
        "tiny.fp32.app.tflite",
    ]
    assert {path: path.stat().st_mtime_ns for path in model_files(folder / "artifacts")} == before
    app = folder / "artifacts" / "tiny.fp32.app.tflite"
    plain = app.with_name("tiny.fp32.tflite")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)).save(tmp_path / "a.png")
    found = [
        json.loads(pocketvit("predict", file, tmp_path / "a.png", "--json").out)["predictions"][0]
        for file in (plain, app)
    ]
    assert found[0]["class"] == found[1]["class"]
    assert found[0]["confidence"] == pytest.approx(found[1]["confidence"], abs=1e-3)
    assert pocketvit("verify", app).code == 0
    assert pocketvit("inspect", app, "--no-time").code == 0
    assert read_artifact(app).input.dtype == "uint8"
    # the report shows what was benched, and nothing that is missing
    assert pocketvit("report", folder).code == 0


def test_without_a_file_to_make_them_from_nothing_is_written(tiny_run: Path, pocketvit: Command) -> None:
    answer = pocketvit("export", tiny_run, "--formats", "onnx", "--app")
    assert answer.code == 2
    assert "made from a .tflite file, and none is asked for" in answer.err
    assert pocketvit("export", tiny_run, "--app-scores", "logits").code == 2
