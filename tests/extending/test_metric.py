"""A metric from one plug-in file: measured by the worker, kept in the document, shown wherever metrics are."""

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import read_artifact, write_artifact
from tests.device_bench.conftest import make_run, write_onnx

from .plugins import run

PLUGIN = """
import os

from device_bench.metrics import METRICS
from device_bench.metrics.base import Metric, MetricTask, Number, column


def measure(task: MetricTask) -> float:
    task.sign()
    if os.environ.get("WEAR_BREAKS"):
        raise RuntimeError("the gauge is gone")
    return task.file.stat().st_size / 7


def wear(measured):
    return measured.get("wear", float)


def text(wear):
    return f"{wear:.1f} writes"


METRICS.register(
    "wear",
    Metric(
        name="wear",
        title="wear of the flash",
        measure=measure,
        columns=(column("Wear per run", wear, text=text, short="wear"),),
        numbers=(Number("wear_writes", "wear", wear, text, cost="wear", axis=lambda measured: "wear, writes"),),
    ),
)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the plug-in, and a run in it whose ``digits.onnx`` can be run."""
    (tmp_path / "wear_plugin.py").write_text(PLUGIN)
    folder = make_run(tmp_path / "digits")
    (folder / "bench" / "cpu.json").unlink()
    file = folder / "artifacts" / "digits.onnx"
    manifest = read_artifact(file)
    write_onnx(file, ("N", 4))
    content = file.read_bytes()
    write_artifact(file, replace(manifest, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)))
    return tmp_path


def pocketvit(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run(place, "wear_plugin", *words)


def bench(place: Path) -> subprocess.CompletedProcess[str]:
    files, result = place / "digits" / "artifacts" / "digits.onnx", place / "digits" / "bench" / "cpu.json"
    return pocketvit(place, "bench", files, "--samples", 5, "--throughput", 0, "--json", result)


def test_help_lists_it(place: Path) -> None:
    words = pocketvit(place, "bench", "--help").stdout.replace("│", " ").split()
    assert "accuracy, wear." in " ".join(words)


@pytest.mark.slow
def test_it_is_measured_kept_and_shown_everywhere(place: Path) -> None:
    folder = place / "digits"
    wear = (folder / "artifacts" / "digits.onnx").stat().st_size / 7
    done = bench(place)
    assert done.returncode == 0, done.stderr
    assert f"{wear:.1f} writes" in done.stdout
    (file,) = json.loads((folder / "bench" / "cpu.json").read_text())["files"]
    assert file["metrics"] == {"wear": wear}

    done = pocketvit(place, "report", folder)
    assert done.returncode == 0, done.stderr
    assert f"{wear:.1f} writes" in done.stdout
    html, markdown = ((folder / name).read_text() for name in ("report.html", "report.md"))
    assert "<h2>Wear of the flash</h2>" in html
    assert f'<td data-label="Wear per run"><span><span class="n">{wear:.1f} writes</span></span></td>' in html
    assert "wear, writes" in html  # the picture of accuracy over cost
    assert re.search(rf"^\| digits\.onnx[^|]* \| {wear:.1f} writes \|$", markdown, re.MULTILINE)
    assert "wear of the flash" in markdown.split("## Where each figure comes from")[1]
    rows = json.loads(pocketvit(place, "report", folder, "--json").stdout)["rows"]
    (timing,) = next(row for row in rows if row["name"] == "digits.onnx")["timings"]
    assert timing["metrics"] == {"wear": wear}

    shutil.move(place / "wear_plugin.py", place / "elsewhere.py")
    done = run(place, "", "report", folder)
    assert done.returncode == 0, done.stderr
    assert "Wear per run" not in (folder / "report.html").read_text()


@pytest.mark.slow
def test_its_failure_is_a_note_and_the_other_figures_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAR_BREAKS", "1")
    done = bench(place)
    assert done.returncode == 0, done.stderr
    (file,) = json.loads((place / "digits" / "bench" / "cpu.json").read_text())["files"]
    assert file["metrics"] == {}
    assert file["measurements"][0]["metric"] == "latency"
    (note,) = [note for note in file["notes"] if "wear" in note]
    assert "Its wear could not be measured." in note
    assert "the gauge is gone" in note
