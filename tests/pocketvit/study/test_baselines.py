"""Pruning and quantisation to compare with, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compress.model.folder import read_model
from compress.search.unstructured import sparse_weights
from device_bench.documents.sparsity import ZEROS_DOCUMENT, zeros_path
from device_bench.report.page import write_report
from pocketvit import RunSettings
from runtime import METRICS_DOCUMENT, PLAN_DOCUMENT, PlanError, macs, read_artifact
from tests.pocketvit.conftest import TINY, Command

pytestmark = pytest.mark.slow

ZEROS = ("--search", "unstructured", "--sparsity", "0.75", "--sparsity-scope", "global")
QUICK = ("--epochs", 1, "--recovery-epochs", 1)


def header(root: Path) -> dict[str, object]:
    line: dict[str, dict[str, object]] = json.loads((root / "search" / "journal.jsonl").read_text().splitlines()[0])
    return line["settings"]


@pytest.mark.parametrize("criterion", ["taylor", "l2", "random"])
def test_each_criterion_ends_at_the_budget(pocketvit: Command, tmp_path: Path, criterion: str) -> None:
    asked = ("--importance", criterion, "--budget", "macs=0.6", "--search", "milp" if criterion == "l2" else "one-shot")
    answer = pocketvit("compress", *TINY, *QUICK, *asked, "--runs", tmp_path, "--name", "run")
    assert answer.code == 0, answer.err
    before, after = (PLAN_DOCUMENT.read(tmp_path / "run" / part / "plan.json") for part in ("baseline", "sliced"))
    assert 0.55 * macs(before) <= macs(after) <= 0.6 * macs(before)
    assert header(tmp_path / "run")["importance"] == criterion
    again = ("--runs", tmp_path, "--name", "run", "--resume")
    other = pocketvit("compress", *TINY, *QUICK, *asked[2:], *again)
    assert other.code == 2
    assert f"importance was '{criterion}' and is now ''" in " ".join(other.err.split())


def test_uniform_scales_every_block_alike_and_the_report_says_so(pocketvit: Command, tmp_path: Path) -> None:
    asked = ("--search", "uniform", "--budget", "macs=0.7", "--recovery-epochs", 0)
    answer = pocketvit("compress", *TINY, *QUICK, *asked, "--runs", tmp_path, "--name", "run")
    assert answer.code == 0, answer.err
    before, after = (PLAN_DOCUMENT.read(tmp_path / "run" / part / "plan.json") for part in ("baseline", "sliced"))
    assert macs(after) <= 0.7 * macs(before)
    assert len(set(after.blocks)) == 1
    assert len(after.blocks) == len(before.blocks)
    write_report(tmp_path / "run")
    assert "Every width scaled alike" in (tmp_path / "run" / "report.md").read_text()


def test_the_journal_of_another_criterion_is_not_taken(pocketvit: Command, tmp_path: Path) -> None:
    root, asked = tmp_path / "run", (*TINY, *QUICK, "--recovery-epochs", 0, "--runs", tmp_path, "--name", "run")
    assert pocketvit("compress", *asked, "--importance", "random").code == 0
    chosen = (root / "search" / "journal.jsonl").read_bytes()
    # as if the settings were those of the other from the start
    document = (root / "run.json").read_text()
    (root / "run.json").write_text(document.replace('"importance": "random"', '"importance": "l2"'))
    shutil.rmtree(root / "sliced")
    answer = pocketvit("compress", *asked, "--importance", "l2", "--resume")
    assert answer.code == 0, answer.err
    assert (root / "search" / "journal.jsonl").read_bytes() != chosen
    assert header(root)["importance"] == "l2"


def test_zeros_from_the_command_to_the_report(pocketvit: Command, tmp_path: Path) -> None:
    asked = (*TINY, *QUICK, *ZEROS, "--runs", tmp_path, "--name", "sparse")
    files = ("--formats", "fp32", "--bench-seconds", "0.2", "--no-energy")
    root = tmp_path / "sparse"
    answer = pocketvit("run", *asked, *files)
    assert answer.code == 0, answer.err
    before, after = (METRICS_DOCUMENT.read(root / part / "metrics.json") for part in ("baseline", "sliced"))
    assert PLAN_DOCUMENT.read(root / "sliced" / "plan.json") == PLAN_DOCUMENT.read(root / "baseline" / "plan.json")
    assert (after.params, after.macs, after.size_bytes) == (before.params, before.macs, before.size_bytes)
    assert len(after.epochs) == 1
    weights = sparse_weights(read_model(root / "sliced"))
    total = sum(weight.numel() for weight in weights.values())
    counted = ZEROS_DOCUMENT.read_if_there(zeros_path(root))
    assert counted is not None
    assert (counted.weights, counted.zeros) == (total, round(0.75 * total))
    assert {own.name: own.zeros for own in counted.layers} == {n: int((w == 0).sum()) for n, w in weights.items()}
    one, other = (read_artifact(root / "artifacts" / f"{name}.fp32.tflite") for name in ("baseline", "sparse"))
    assert one.gzip_bytes is not None
    assert other.gzip_bytes is not None
    assert other.gzip_bytes < 0.8 * one.gzip_bytes
    assert other.size_bytes > 0.97 * one.size_bytes
    told = (root / "report.md").read_text().split("## What zeros bought")[1].split("\n## ")[0]
    assert "75.0 % of the" in told
    assert "the same multiply-accumulates as baseline.fp32.tflite" in told
    assert "compressed by gzip they take" in told
    assert "measured turn by turn" in told


def test_a_run_of_zeros_goes_on_where_it_was_killed(pocketvit: Command, tmp_path: Path) -> None:
    asked = ("compress", *TINY, *QUICK, *ZEROS, "--runs", tmp_path, "--name", "sparse")
    assert pocketvit(*asked).code == 0
    root = tmp_path / "sparse"
    kept = ("sliced/model.safetensors", "sliced/metrics.json", "search/sparsity.json")
    whole = {file: (root / file).read_bytes() for file in kept}
    for gone in (kept[1:], kept[2:]):  # as kills before the metrics and before the count leave it
        for file in gone:
            (root / file).unlink()
        answer = pocketvit(*asked, "--resume")
        assert answer.code == 0, answer.err
        assert {file: (root / file).read_bytes() for file in kept} == whole


def test_recipes_by_name_end_in_the_manifest(pocketvit: Command, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    assert pocketvit("compress", *TINY, *QUICK, "--runs", tmp_path, "--name", "tiny").code == 0
    short = ("--calibration-images", 4, "--verify-images", 40, "--min-agreement", 0, "--json")
    for name in ("dynamic_wi8_afp32", "static_wi8_ai8_float_islands"):
        answer = pocketvit("export", folder, *short, "--formats", "int8", "--int8-recipe", name)
        assert answer.code == 0, answer.err
        (made,) = [one for one in json.loads(answer.out)["artifacts"] if one["file"] == "tiny.int8.tflite"]
        assert (made["recipe"], made["asked"]["recipe"]) == (name, name)
        assert [trial["recipe"] for trial in made["trials"]] == [name]
    answer = pocketvit("export", folder, *short, "--formats", "int8-full", "--qat", 2, "--qat-from", 2)
    assert answer.code == 0, answer.err
    (made,) = [one for one in json.loads(answer.out)["artifacts"] if one["file"] == "tiny.int8-full.tflite"]
    assert made["asked"] == {"qat_epochs": 2, "qat_from": 2}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--importance", "l1"), "fisher, taylor, l2 or random"),
        (("--importance", "l2", "--search", "dfbnb"), "dfbnb goes by Fisher importance"),
        (("--importance", "random", "--search", "greedy"), "greedy goes by Fisher importance"),
        ((*ZEROS, "--budget", "macs=0.5"), "no budget can be met"),
        ((*ZEROS, "--cost", "params"), "magnitude of weights, not by cost"),
        ((*ZEROS, "--importance", "l2"), "no --importance"),
        ((*ZEROS, "--qat", "2"), "zeros would not stay"),
        ((*ZEROS, "--sparsity", "1"), "more than 0 and less than 1"),
        ((*ZEROS, "--sparsity-scope", "block"), "layer or global"),
        ((*ZEROS, "--sparsity-layers", "fc1,head"), "qkv, proj, fc1 or fc2. Got"),
        ((*ZEROS, "--sparsity-layers", ""), "qkv, proj, fc1, fc2"),
        (("--int8-recipe", "static"), "static_wi8_ai8_float_islands"),
        (("--int8-recipe", "dynamic_wi8_afp32", "--formats", "onnx"), "int8 among --formats"),
        (("--qat-from", "2"), "only with --qat"),
        (("--qat", "3", "--qat-from", "4"), "1 to 3"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pocketvit: Command, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    answer = pocketvit("run", *arguments, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert text in " ".join(answer.err.split())
    assert "Traceback" not in answer.err
    assert not (tmp_path / "runs").exists()


def test_settings_from_python_are_held_to_the_same() -> None:
    assert RunSettings(search="unstructured", budget="").budget == ""
    with pytest.raises(PlanError, match="budget=''"):
        RunSettings(search="unstructured")
    assert RunSettings().budget == "macs=0.75"
