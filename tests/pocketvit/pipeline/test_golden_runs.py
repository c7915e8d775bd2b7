"""Run folders of earlier versions: they are reported, continued and exported by every later one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.model.folder import read_model, read_task, weights_sha256
from pocketvit import RunSettings, export_run
from pocketvit.jobs.distilling import DISTILL_DOCUMENT, distill
from pocketvit.pipeline import run as pipeline
from pocketvit.pipeline.runfolder import RunFolder, read_settings
from tests.pocketvit.conftest import Command

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden" / "run-folders"
SEARCHES = ("latency", "tas", "tree", "zeros")
RUNS = ("distilled", *SEARCHES, "whole")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden runs, and the folder that their paths are relative to."""
    shutil.copytree(GOLDEN, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def weights_of(run: Path) -> dict[str, str]:
    return {name: weights_sha256(read_model(run / name)) for name in ("baseline", "sliced")}


def test_all_golden_runs_are_here() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()) == sorted(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_is_reported(runs: Path, pocketvit: Command, name: str) -> None:
    answer = pocketvit("report", name, "--json")
    assert answer.code == 0, answer.err
    rows = {row["name"] for row in json.loads(answer.out)["rows"]}
    assert rows >= {"baseline", "sliced"}
    assert (runs / name / "report.html").stat().st_size > 10_000
    if name == "whole":
        assert "whole.fp32.tflite" in rows
        assert [own["file"] for own in json.loads(answer.out)["refused"]]


def resumed(name: str) -> Callable[[RunSettings, Path], object]:
    if name == "distilled":
        told = DISTILL_DOCUMENT.read(Path(name) / "distill.json")
        return lambda settings, root: distill(settings, told, root, resume=True)
    return lambda settings, root: pipeline.compress(settings, root, resume=True)


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_goes_on_and_ends_as_it_was(runs: Path, name: str) -> None:
    before, log = weights_of(runs / name), (runs / name / "log.jsonl").read_text().splitlines()
    resumed(name)(read_settings(RunFolder(Path(name))), Path(name))
    assert weights_of(runs / name) == before
    started = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()[len(log) :]]
    assert [line["stage"] for line in started if line["event"] == "started"] == [], "nothing is done again"


def test_a_run_of_an_older_version_keeps_its_rule_of_cropping(runs: Path) -> None:
    task = runs / "tas" / "baseline" / "task.json"
    before = json.loads(task.read_text())
    before["preprocessing"] |= {"resize": "center_crop", "crop_pct": 0.9}
    task.write_text(json.dumps({**before, "schema_version": 1}))
    shutil.rmtree(runs / "tas" / "sliced")
    pipeline.compress(read_settings(RunFolder(Path("tas"))), "tas", resume=True)
    assert read_task(runs / "tas" / "sliced").preprocessing == read_task(runs / "tas" / "baseline").preprocessing
    assert read_task(runs / "tas" / "sliced").preprocessing.resize == "center_crop"


@pytest.mark.parametrize("name", ["latency", "whole"])
def test_a_golden_run_is_exported(runs: Path, name: str) -> None:
    shutil.rmtree(runs / name / "artifacts", ignore_errors=True)
    artifacts = export_run(name, RunSettings(kinds=("fp32", "onnx"), verify_images=20))
    assert [artifact.file for artifact in artifacts] == ["baseline.fp32.tflite", f"{name}.fp32.tflite", f"{name}.onnx"]
    assert all(artifact.parity.top1_agreement == 1 for artifact in artifacts)
