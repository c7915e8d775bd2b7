"""Several budgets share the first training and the analysis, and each has a whole run of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import pocketvit
from compress.budget import check_distinct
from compress.model.folder import read_model
from pocketvit.options import settings_and_budgets
from pocketvit.pipeline import bases, budgets, stages
from pocketvit.pipeline.budgets import compress_budgets, place_of
from pocketvit.settings import RunSettings, TrainSettings
from runtime import METRICS_DOCUMENT, PlanError, RunFolderError, macs
from tests.pocketvit.conftest import Command

BUDGETS = ("macs=0.8", "macs=0.6")
SETTINGS = RunSettings(
    model="vit_tiny_patch16_224",
    img_size=32,
    patch_size=16,
    model_args={"embed_dim": 32, "depth": 1, "num_heads": 2},
    fine_tune=TrainSettings(epochs=1),
    recover=TrainSettings(epochs=1),
    train_limit=64,
    basis_images=64,
    eval_limit=40,
    reconstruct=False,
    threads=1,
    search="one-shot",
)


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Counts the calls of a function that a module holds."""
    calls, own = [], getattr(module, name)

    def counted(*arguments: Any, **values: Any) -> Any:
        calls.append(name)
        return own(*arguments, **values)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_a_set_trains_and_analyses_once_and_a_stopped_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "mine"
    trained, analysed = count_calls(monkeypatch, stages, "fit"), count_calls(monkeypatch, bases, "analyse")
    stopped = stages.recover_stage

    def stop_at_the_second(job: Any, folder: Any, *rest: Any) -> Any:
        if folder.name == "mine-macs-0.6":
            raise KeyboardInterrupt
        return stopped(job, folder, *rest)

    monkeypatch.setattr(stages, "recover_stage", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        compress_budgets(SETTINGS, BUDGETS, root)
    assert (trained, analysed) == (["fit", "fit"], ["analyse"])  # the baseline, and the first recovery
    assert (place_of(root, "macs=0.6") / "search" / "bases.safetensors").is_file()
    monkeypatch.setattr(stages, "recover_stage", stopped)
    summaries = compress_budgets(SETTINGS, BUDGETS, root, resume=True)
    assert (trained, analysed) == (["fit"] * 3, ["analyse"])
    assert [own.name for own in summaries] == ["mine-macs-0.8", "mine-macs-0.6"]
    shares = [macs(own.sliced.plan) / macs(own.baseline.plan) for own in summaries if own.sliced.plan]
    assert 0.6 < shares[0] <= 0.8
    assert 0.4 < shares[1] <= 0.6
    weights = [place_of(root, own) / "baseline" / "model.safetensors" for own in BUDGETS]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not list(tmp_path.glob("*/search/bases.safetensors"))

    # a budget that is added later takes the baseline, and every folder stands alone
    compress_budgets(SETTINGS, ("macs=0.8", "macs=0.7"), root, resume=True)
    assert trained == ["fit"] * 4
    shutil.rmtree(place_of(root, "macs=0.8"))
    alone = place_of(root, "macs=0.6")
    again = pocketvit.compress(RunSettings(**{**vars(SETTINGS), "budget": "macs=0.6"}), alone, resume=True)
    assert again.sliced.plan == summaries[1].sliced.plan
    assert trained == ["fit"] * 4
    METRICS_DOCUMENT.read(alone / "baseline" / "metrics.json")
    assert read_model(alone / "baseline").plan.embed_dim == 32


def test_rounds_of_a_tree_search_share_the_first_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, analysed = count_calls(monkeypatch, stages, "fit"), count_calls(monkeypatch, bases, "analyse")
    settings = RunSettings(**{**vars(SETTINGS), "search": "greedy", "importance_images": 2})
    summaries = compress_budgets(settings, ("macs=0.9", "macs=0.8"), tmp_path / "mine")
    assert (trained, analysed) == (["fit"] * 3, ["analyse"])
    assert all(own.sliced.plan and own.sliced.plan != own.baseline.plan for own in summaries)
    assert not list(tmp_path.rglob("bases.safetensors"))


def test_a_run_of_a_set_is_the_run_of_its_budget_alone(tmp_path: Path) -> None:
    compress_budgets(SETTINGS, BUDGETS, tmp_path / "set")
    pocketvit.compress(RunSettings(**{**vars(SETTINGS), "budget": "macs=0.6"}), tmp_path / "alone")
    one, other = (read_model(tmp_path / name / "sliced").state_dict() for name in ("set-macs-0.6", "alone"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("given", "texts", "error"),
    [
        (
            {},
            ("macs=0.5", "macs=0.50"),
            "A budget is given twice. Expected each budget once. Got macs=0.5 and macs=0.50",
        ),
        ({}, ("macs=0.5", "speed=2"), "That is not a budget"),
        ({}, ("macs=0.5", "macs=0.000001"), "cannot be met by this model"),
        ({}, (), "These are no budgets"),
        ({}, "macs=0.5", "These are no budgets"),
        ({}, ("latency=1ms@ssh:a", "latency=1ms@ssh-a"), "would have the same folder"),
        ({"search": "unstructured", "budget": ""}, BUDGETS, "unstructured makes zeros and removes no width"),
        ({"search": "uniform", "cost": "params"}, ("params=0.5", "macs=0.5"), "uniform goes by what the budget counts"),
    ],
)
def test_budgets_that_repeat_or_contradict_are_refused_before_any_work(
    tmp_path: Path, given: dict[str, Any], texts: Any, error: str
) -> None:
    with pytest.raises(PlanError) as caught:
        compress_budgets(RunSettings(**{**vars(SETTINGS), **given}), texts, tmp_path / "mine")
    assert error in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_two_budgets_that_are_equal_for_the_model_are_refused(tmp_path: Path) -> None:
    whole = macs(budgets.prepare(SETTINGS).plan)
    with pytest.raises(PlanError, match="Two budgets are the same for this model"):
        compress_budgets(SETTINGS, ("macs=0.5", f"macs={whole // 2}"), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stops_a_set_before_any_is_begun(tmp_path: Path) -> None:
    there = tmp_path / "mine-macs-0.6"
    there.mkdir()
    (there / "note.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="exists and is no run folder"):
        compress_budgets(SETTINGS, BUDGETS, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine-macs-0.6"]


def test_options_give_one_budget_or_several() -> None:
    settings, several = settings_and_budgets({"budget": ("macs=0.8", "macs=0.6"), "seed": "3"})
    assert (settings.budget, settings.seed, several) == ("macs=0.8", 3, ("macs=0.8", "macs=0.6"))
    settings, several = settings_and_budgets({"budget": ("macs=0.8",)})
    assert (settings.budget, several) == ("macs=0.8", ())
    assert settings_and_budgets({})[1] == ()


def test_budgets_are_distinct_by_what_they_state() -> None:
    check_distinct(["macs=1K", "macs=1M", "params=0.5", "macs=0.5", "latency=0.5@cpu"])
    with pytest.raises(PlanError, match="twice"):
        check_distinct(["macs=1M", "macs=1.0M"])


def test_the_command_prints_one_table_or_one_document_of_all(tmp_path: Path, pocketvit: Command) -> None:
    options = [
        *("--model", "vit_tiny_patch16_224", "--img-size", 32, "--patch-size", 16, "--search", "one-shot"),
        *("--model-arg", "embed_dim=32", "--model-arg", "depth=1", "--model-arg", "num_heads=2"),
        *("--epochs", 0, "--recovery-epochs", 0, "--train-limit", 64, "--basis-images", 64, "--eval-limit", 40),
        *("--no-reconstruct", "--threads", 1, "--name", "mine", "--runs", tmp_path),
    ]
    both = ("--budget", "macs=0.8", "--budget", "params=0.6")
    answer = pocketvit("compress", *options, *both)
    assert answer.code == 0, answer.err
    assert answer.out.count("baseline") == 1
    assert "mine-macs-0.8" in answer.out
    assert "mine-params-0.6" in answer.out
    assert f"pocketvit export {tmp_path / 'mine-params-0.6'}" in answer.err.replace("\n", "")
    answer = pocketvit("compress", *options, *both, "--resume", "--json")
    document = json.loads(answer.out)
    assert document["schema"] == "pocketvit.summaries"
    assert [run["run"] for run in document["runs"]] == ["mine-macs-0.8", "mine-params-0.6"]
    assert [row["name"] for row in document["runs"][1]["rows"]] == ["baseline", "sliced"]
    answer = pocketvit("compress", *options, *both)
    assert answer.code == 2
    assert "exists already" in answer.err
    answer = pocketvit("export", "--model", "vit_tiny_patch16_224", "--no-pretrained", *both)
    assert answer.code == 2
    assert "--budget is given several times" in answer.err
