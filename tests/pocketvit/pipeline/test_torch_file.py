"""A file for torch is benched and reported as files of the other formats are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.pocketvit import preloaded
from tests.pocketvit.conftest import Command, environment

pytestmark = pytest.mark.slow


def test_a_torch_file_reaches_the_report(tiny_run: Path, tmp_path: Path, pocketvit: Command) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    done = pocketvit("export", run, "--formats", "fp32,torch", "--verify-images", 30)
    assert done.code == 0, done.err
    files = [run / "artifacts" / name for name in ("tiny.pt2", "tiny.fp32.tflite")]
    bench = ("bench", *files, "--samples", 5, "--throughput", 0, "--json", run / "bench" / "cpu.json")
    # in a process that has torch loaded, as have those that measure
    measured = preloaded.run(*bench, env=environment())
    assert measured.returncode == 0, measured.stderr
    done = pocketvit("report", run, "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads(done.out)["rows"]}
    (timing,) = rows["tiny.pt2"]["timings"]
    assert timing["engine"].startswith("torch ")
    assert timing["median_s"]["value"] > 0
    assert "tiny.pt2" in pocketvit("report", run).out
    assert "tiny.pt2" in (run / "report.html").read_text()
    assert "tiny.pt2" in (run / "report.md").read_text()
