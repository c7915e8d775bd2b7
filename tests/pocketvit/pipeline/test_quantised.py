"""The export options that say how integers are chosen, as a user gives them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from export.quantise.processors import host_processor, instructions_of_fp32, ordered_recipes
from runtime import read_artifact
from tests.pocketvit.conftest import Command

pytestmark = pytest.mark.slow

SHORT = ("--calibration-images", 4, "--verify-images", 40, "--min-agreement", 0)


@pytest.fixture
def run_folder(tiny_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(tiny_run, folder)
    return folder


def test_the_manifest_says_what_was_tried_and_for_what(run_folder: Path, pocketvit: Command) -> None:
    answer = pocketvit("export", run_folder, *SHORT, "--formats", "int8,fp16,onnx-fp16", "--for", "pi4", "--json")
    assert answer.code == 0, answer.err
    by_name = {one["file"]: one for one in json.loads(answer.out)["artifacts"]}
    int8 = by_name["tiny.int8.tflite"]
    assert int8["made_for"] == "pi4"
    assert int8["asked"]["made_for"] == "pi4"
    tried = {trial["recipe"]: trial for trial in int8["trials"]}
    # the one that executes fewest instructions on that core is tried first, and the search ends with it
    first = ordered_recipes("pi4", "int8")[0]
    assert int8["recipe"] == first.name
    assert {name: own["instructions_of_fp32"] for name, own in tried.items()} == {
        first.name: instructions_of_fp32("pi4", first)
    }
    # no time of this machine says anything about that one
    assert all(trial["latency_s"] is None for trial in int8["trials"])
    assert int8["calibration"]["images"] == 4
    for name in ("tiny.fp16.tflite", "tiny.fp16.onnx"):
        assert by_name[name]["precision"] == "fp16"
        plain = name.replace("fp16.tflite", "fp32.tflite").replace(".fp16", "")
        assert by_name[name]["size_bytes"] < 0.75 * read_artifact(run_folder / "artifacts" / plain).size_bytes


def test_on_the_machine_it_is_made_for_recipes_are_timed(run_folder: Path, pocketvit: Command) -> None:
    answer = pocketvit("export", run_folder, *SHORT, "--formats", "int8", "--for", "x86", "--json")
    assert answer.code == 0, answer.err
    (int8,) = [one for one in json.loads(answer.out)["artifacts"] if one["file"] == "tiny.int8.tflite"]
    timed = {trial["recipe"]: trial["latency_s"] for trial in int8["trials"]}
    if host_processor() != "x86":
        assert set(timed.values()) == {None}
        return
    assert None not in timed.values()
    assert timed[int8["recipe"]] <= 1.02 * min(timed.values())


def test_a_file_for_npu_compilers_takes_the_place_of_the_usual_ones(run_folder: Path, pocketvit: Command) -> None:
    answer = pocketvit("export", run_folder, *SHORT, "--for", "static-int8", "--io-type", "uint8", "--json")
    assert answer.code == 0, answer.err
    artifacts = json.loads(answer.out)["artifacts"]
    assert [one["file"] for one in artifacts] == ["baseline.fp32.tflite", "tiny.static-int8.tflite"]
    own = artifacts[-1]
    assert (own["precision"], own["asked"]["io_type"], own["made_for"]) == ("static-int8", "uint8", None)
    assert {own[end]["dtype"] for end in ("input", "output")} == {"uint8"}
    assert 0 <= own["input"]["zero_point"] <= 255
    file = run_folder / "artifacts" / own["file"]
    assert pocketvit("verify", file).code == 0
    ops = json.loads(pocketvit("inspect", file, "--json").out)["contents"]["ops"]
    assert {row["kind"] for row in ops if "float" in row["precision"]} == set()
    refused = pocketvit("export", run_folder, "--for", "static-int8", "--formats", "int8")
    assert refused.code == 2
    assert "no recipe that is chosen by speed" in refused.err


def test_the_drop_that_is_allowed_is_kept(run_folder: Path, pocketvit: Command) -> None:
    answer = pocketvit("export", run_folder, *SHORT, "--formats", "int8-full", "--max-drop", 100, "--json")
    assert answer.code == 0, answer.err
    (full,) = [one for one in json.loads(answer.out)["artifacts"] if one["file"] == "tiny.int8-full.tflite"]
    assert full["asked"] == {"max_drop": 100.0, "qat_epochs": 0}
    assert all(trial["top1_drop"] is not None for trial in full["trials"])


def test_a_loss_that_so_few_images_cannot_prove_of_any_file_is_one_note_and_no_failure(
    run_folder: Path, pocketvit: Command
) -> None:
    few = ("--calibration-images", 16, "--verify-images", 20, "--min-agreement", 0, "--max-drop", 6)
    given = (*few, "--formats", "int8,onnx-int8", "--int8-recipe", "dynamic_wi8_afp32")
    answer = pocketvit("export", run_folder, *given)
    assert answer.code == 0, answer.err
    said = "At least 43 test images are needed to prove that a file loses at most 6 points of top-1"
    assert "UNPROVEN" not in answer.out
    assert " ".join(answer.out.split()).count(f"NOTE: {said}") == 1
    assert answer.err.count(said) == 1
    (again,) = [
        one
        for one in json.loads(pocketvit("export", run_folder, *given, "--json").out)["artifacts"]
        if one["file"] == "tiny.int8.tflite"
    ]
    assert again["unproven"].startswith(said)
    assert again["drop_bounds"][0] <= 6 < again["drop_bounds"][1]
    assert pocketvit("report", run_folder).code == 0
    assert (run_folder / "report.md").read_text().count(said) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--for", "pi3"), "x86, pi4, pi5, android or static-int8"),
        (("--max-drop", "-1"), "0 to 100"),
        (("--qat", "-1"), "qat_epochs must not be negative"),
        (("--calibration-images", 1), "Calibration needs at least 2 images"),
        (("--formats", "coreml"), "--formats takes some of"),
        (("--micro-ram", 0), "ram_bytes must be positive"),
    ],
)
def test_bad_options_end_with_2(
    run_folder: Path, pocketvit: Command, options: tuple[str | int, ...], text: str
) -> None:
    answer = pocketvit("export", run_folder, *options)
    assert answer.code == 2
    assert text in " ".join(answer.err.split())
    assert "Traceback" not in answer.err


def test_a_microcontroller_file_says_its_arena(run_folder: Path, pocketvit: Command) -> None:
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter is not installed")
    answer = pocketvit("export", run_folder, *SHORT, "--formats", "tflite-micro", "--json")
    assert answer.code == 0, answer.err
    (micro,) = [one for one in json.loads(answer.out)["artifacts"] if one["file"] == "tiny.micro.tflite"]
    assert micro["arena_bytes"] > 1000
    assert micro["input"]["dtype"] == micro["output"]["dtype"] == "int8"
    refused = pocketvit("export", run_folder, *SHORT, "--formats", "tflite-micro", "--micro-ram", 1000)
    assert refused.code == 1
    assert "tiny.micro.tflite" in refused.err
    assert "fewer tokens" in " ".join(refused.err.split())
