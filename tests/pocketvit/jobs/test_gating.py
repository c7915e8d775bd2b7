"""``pocketvit gate`` and ``compare`` as users and CI run them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from device_bench.documents.facts import BASELINE_DOCUMENT
from runtime import manifest_path
from tests.pocketvit import preloaded
from tests.pocketvit.conftest import environment

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tiny_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The unpruned float32 file of the tiny run, and the same one again."""
    source = tiny_run / "artifacts" / "baseline.fp32.tflite"
    copies = tmp_path / "base" / "vit.tflite", tmp_path / "new" / "vit.tflite"
    for copy in copies:
        copy.parent.mkdir()
        shutil.copy(source, copy)
        manifest = manifest_path(source).read_text().replace(source.name, copy.name)
        manifest_path(copy).write_text(manifest)
    return copies


@pytest.fixture
def slowed(tmp_path: Path) -> Path:
    """A file that takes many times as long: the tiny model's shape, but wider and deeper; it has no manifest."""
    from compress.model.load import ModelSpec, load_model
    from export.formats.tflite import timing_bytes

    spec = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
    path = tmp_path / "slow" / "vit.tflite"
    path.parent.mkdir()
    path.write_bytes(timing_bytes(load_model(spec, 10).plan, "fp32"))
    return path


def test_an_unchanged_file_passes_and_a_slow_one_does_not(files, slowed, pocketvit, tmp_path):
    junit = tmp_path / "out" / "gate.xml"
    passed = pocketvit("gate", *files, "--max-slowdown", 400, "--junit", junit, "--json")
    assert passed.code == 0, passed.err
    document = json.loads(passed.out)
    assert document["schema"] == "pocketvit.gate"
    (gate,) = document["gates"]
    assert gate["passed"]
    assert gate["duel"]["cleared"]
    assert ElementTree.parse(junit).getroot()[0].get("failures") == "0"

    failed = pocketvit("gate", files[0], slowed, "--max-slowdown", 400, "--junit", junit)
    assert failed.code == 1
    assert "Traceback" not in failed.err
    assert "The gate is closed for vit.tflite: latency" in " ".join(failed.err.split())
    assert re.search(r"latency .* FAILED", failed.out)
    names = {case.get("name") for case in ElementTree.parse(junit).getroot()[0] if case.find("failure") is not None}
    assert {"latency", "size"} <= names


def test_stored_facts(files, slowed, pocketvit, tmp_path):
    baseline = tmp_path / "baseline.json"
    stored = pocketvit("gate", files[0], "--baseline", baseline, "--update-baseline")
    assert stored.code == 0, stored.err
    facts = BASELINE_DOCUMENT.read(baseline).of("vit.tflite")
    assert facts.partitions == 1
    assert facts.macs is not None
    same = pocketvit("gate", files[1], "--baseline", baseline)
    assert same.code == 0, same.err
    assert "another moment" in " ".join(same.out.split())
    other = pocketvit("gate", slowed, "--baseline", baseline)
    assert other.code == 1
    # it has no manifest, so that what the baseline knows is no longer told
    for metric in ("size", "parameters", "top-1"):
        assert metric in other.err


def test_a_file_is_taken_up_beside_the_others(files, slowed, pocketvit, tmp_path):
    baseline, renamed = tmp_path / "baseline.json", tmp_path / "other.tflite"
    shutil.copy(slowed, renamed)
    for file in (files[0], renamed):
        assert pocketvit("gate", file, "--baseline", baseline, "--update-baseline").code == 0
    assert {facts.file for facts in BASELINE_DOCUMENT.read(baseline).facts} == {"vit.tflite", "other.tflite"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{base}",), "BASE NEW, or --baseline"),
        (("{base}", "{new}", "{new}"), "BASE NEW, or --baseline"),
        (("{base}", "--update-baseline"), "--baseline"),
        (("{base}", "--baseline", "{nowhere}"), "does not exist"),
        (("{base}", "{new}", "--baseline", "{nowhere}"), "different names"),
        (("{base}", "{nowhere}"), "does not exist"),
        (("{base}", "{new}", "--config", "{nowhere}"), "does not exist"),
        (("{base}", "{new}", "--max-slowdown", "-3"), "impossible"),
    ],
)
def test_bad_usage_is_refused(files, pocketvit, tmp_path, arguments, said):
    places = {"base": files[0], "new": files[1], "nowhere": tmp_path / "nowhere.tflite"}
    answer = pocketvit("gate", *(argument.format(**places) for argument in arguments))
    assert answer.code == 2, answer.err
    assert "Traceback" not in answer.err
    assert said in " ".join(answer.err.split())


def test_a_hostile_file_ends_in_an_error(files, pocketvit, tmp_path):
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(files[0].read_bytes()[:20_000])
    baseline = tmp_path / "baseline.json"
    assert pocketvit("gate", files[0], "--baseline", baseline, "--update-baseline").code == 0
    before = baseline.read_bytes()
    for arguments in ((files[0], bad), (bad, "--baseline", baseline, "--update-baseline")):
        answer = pocketvit("gate", *arguments)
        assert answer.code == 2
        assert "Traceback" not in answer.err
    assert baseline.read_bytes() == before


def test_comparing_files_and_results(files, slowed, pocketvit, tmp_path):
    answer = pocketvit("compare", files[0], slowed, "--seconds", 1, "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["latency"]["slower"]
    assert document["base"]["size_bytes"] < document["new"]["size_bytes"]
    result = tmp_path / "result.json"
    assert pocketvit("bench", files[0], "--samples", 3, "--throughput", 0, "--json", result).code == 0
    same = pocketvit("compare", result, result)
    assert same.code == 0
    assert "1.00" in same.out
    text = pocketvit("compare", *files, "--seconds", 0.2)
    assert text.code == 0
    assert "in turns" in text.out


def run_steps(document: dict[str, Any], inputs: dict[str, str], place: Path) -> int:
    """Runs the steps of a composite action as its runner does, and returns the status of the first that fails."""
    known = {name: str(spec.get("default", "")) for name, spec in document["inputs"].items()}
    assert inputs.keys() <= known.keys()
    known |= inputs

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{\s*inputs\.([\w-]+)\s*\}\}", lambda found: known[found[1]], text)

    for step in document["runs"]["steps"]:
        condition = re.fullmatch(r"inputs\.([\w-]+) == '(.*)'", step.get("if", "")) if "if" in step else None
        if condition and known[condition[1]] != condition[2]:
            continue
        assert step["shell"] == "bash"
        own = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
            **{name: filled(text) for name, text in step.get("env", {}).items()},
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", filled(step["run"])]
        done = subprocess.run(command, env=own, cwd=place, timeout=300, check=False)
        if done.returncode:
            return done.returncode
    return 0


def test_the_action_passes_an_unchanged_file_and_stops_a_slowed_one(files, slowed, tmp_path):
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    place = tmp_path / "place with a space"
    place.mkdir()
    config = place / "limits.toml"
    unlimited = ("size", "params", "macs", "memory")
    lines = [f"max_{name}_growth_percent = false" for name in unlimited] + ["max_slowdown_percent = 400"]
    lines += [f"max_{name}_loss_points = false" for name in ("top1", "agreement")]
    config.write_text("[gate]\n" + "\n".join(lines) + "\n")
    inputs = {"base": str(files[0]), "config": config.name, "install": "false"}
    assert run_steps(action, {**inputs, "new": str(files[1])}, place) == 0
    assert "vit.tflite: passed" in (place / "summary.md").read_text()
    assert run_steps(action, {**inputs, "new": str(slowed)}, place) == 1
    assert "| latency |" in (place / "summary.md").read_text()
    suite = ElementTree.parse(place / "pocketvit-gate.xml").getroot()[0]
    assert suite.get("failures") == "1"


@pytest.mark.parametrize("path", ["docs/examples/model-gate.yml", ".github/workflows/ci.yml"])
def test_workflows_name_the_actions_own_inputs(path):
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    jobs = yaml.safe_load((ROOT / path).read_text())["jobs"]
    used = [
        step for job in jobs.values() for step in job["steps"] if step.get("uses") in ("./", "pocketvit/pocketvit@main")
    ]
    assert used
    for step in used:
        assert step["with"].keys() <= inputs.keys()
        assert step["with"].keys() >= {name for name, spec in inputs.items() if spec.get("required")}


def test_our_own_default_files_pass_their_gate(pocketvit, tmp_path):
    program = f"import runpy; runpy.run_path({str(ROOT / '.ci' / 'default_artifacts.py')!r}, run_name='__main__')"
    preloaded.run(tmp_path, env=environment(), program=program).check_returncode()
    files = [tmp_path / f"default.{kind}" for kind in ("fp32.tflite", "int8.tflite", "onnx")]
    settings = "--baseline", ROOT / ".ci" / "gate-baseline.json", "--config", ROOT / ".ci" / "gate.toml"
    answer = pocketvit("gate", *files, *settings)
    assert answer.code == 0, answer.out + answer.err
