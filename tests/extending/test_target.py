"""A target from one plug-in file: benched, checked, listed, reported, and named in the help."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import read_artifact, write_artifact
from tests.device_bench.conftest import make_run, write_onnx

from .plugins import run

PLUGIN = """
from device_bench.targets import TARGETS
from device_bench.targets.base import Target
from device_bench.targets.cpu import bench_files
from device_bench.targets.finding import Finding
from runtime import MeasurementError


def bench(device, request, progress, *, stop):
    if device.place == "lost":
        raise MeasurementError("Nobody finds the toy lost")
    return bench_files(request, progress)


def check(device):
    return (Finding(device.label, "toy", None if device.place == "lost" else f"{device.place} is here", "Look for it"),)


TARGETS.register("toy:NAME", Target(bench, check, "toys", {"toyctl": "sudo apt install toyctl"}))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the plug-in, an inventory, and a run in it whose ``digits.onnx`` can be run."""
    (tmp_path / "toy_plugin.py").write_text(PLUGIN)
    (tmp_path / "targets.toml").write_text('[targets.bear]\naddress = "toy:x"\n')
    root = make_run(tmp_path / "digits")
    file = root / "artifacts" / "digits.onnx"
    manifest = read_artifact(file)
    write_onnx(file, ("N", 4))
    content = file.read_bytes()
    write_artifact(file, replace(manifest, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)))
    (root / "bench" / "cpu.json").unlink()
    return tmp_path


def bench(place: Path, *words: object) -> tuple[int, str, str]:
    file = place / "digits" / "artifacts" / "digits.onnx"
    done = run(place, "toy_plugin", "bench", file, "--samples", 3, "--throughput", 0, *words)
    return done.returncode, done.stdout, done.stderr


def test_the_help_and_the_errors_name_it(place: Path) -> None:
    assert "toy:NAME" in run(place, "toy_plugin", "bench", "--help").stdout
    for wrong in ("toy:", "toy", "tin:x"):
        code, _, error = bench(place, "--target", wrong)
        assert code == 2
        assert "toy:NAME" in error.replace("\n", "")


def test_it_is_benched_on_the_terminal_in_json_and_in_the_report(place: Path) -> None:
    code, out, error = bench(place, "--target", "toy:x", "--json", "-")
    assert code == 0, error
    assert json.loads(out)["target"] == "toy:x"
    code, out, error = bench(place, "--target", "toy:x,toy:y", "--json", place / "digits" / "bench")
    assert code == 0, error
    assert "toy:x" in out
    assert "toy:y" in out
    assert {path.name for path in (place / "digits" / "bench").glob("*.json")} == {"toy-x.json", "toy-y.json"}
    assert run(place, "toy_plugin", "report", place / "digits").returncode == 0
    for name in ("report.html", "report.md"):
        assert "toy:x" in (place / "digits" / name).read_text(encoding="utf-8")


def test_a_lost_one_costs_its_own_result_alone(place: Path) -> None:
    code, out, error = bench(place, "--target", "toy:x,toy:lost")
    assert code == 1
    assert "toy:x" in out
    assert "Nobody finds the toy lost" in error.replace("\n", " ")


def test_it_is_listed_and_checked(place: Path) -> None:
    assert "toy:x" in run(place, "toy_plugin", "targets", "list").stdout
    good = run(place, "toy_plugin", "targets", "check", "bear")
    assert (good.returncode, "x is here" in good.stdout) == (0, True)
    lost = run(place, "toy_plugin", "targets", "check", "toy:lost")
    assert (lost.returncode, "Look for it" in lost.stdout) == (1, True)


def test_the_doctor_looks_for_its_programs(place: Path) -> None:
    findings = json.loads(run(place, "toy_plugin", "doctor", "--json").stdout)["findings"]
    assert {"area": "devices", "name": "toyctl, for toys", "value": None, "fix": "sudo apt install toyctl"} in findings


def test_no_latency_table_is_measured_there(place: Path) -> None:
    done = run(place, "toy_plugin", "profile", "--target", "toy:x")
    assert done.returncode == 2
    assert "The target cannot be profiled. Expected cpu. Got 'toy:x'." in done.stderr.replace("\n", " ")
