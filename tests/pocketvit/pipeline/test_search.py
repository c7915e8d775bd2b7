from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime import METRICS_DOCUMENT, MULTIPLE, PLAN_DOCUMENT, macs, params
from tests.pocketvit import preloaded
from tests.pocketvit.conftest import TINY, Command, environment
from tests.pocketvit.killed import kill_at

pytestmark = pytest.mark.slow

PLACES = (
    *("run.json", "baseline/training.safetensors", "baseline/model.safetensors"),
    *("search/iteration-01/bases.safetensors", "search/iteration-01/journal.jsonl"),
    *("search/iteration-01/training.safetensors", "search/iteration-01/model.safetensors"),
    *("search/iteration-02/bases.safetensors", "search/iteration-02/journal.jsonl"),
    "search/iteration-02/model.safetensors",
)
"""What a run of several rounds writes, in this order."""

ROUNDS = (
    "--search",
    "dfbnb",
    "--budget",
    "params=0.85",
    "--depth",
    "2",
    "--recovery-epochs",
    "1",
    "--group-size",
    "mlp=16",
)


def test_milp_meets_the_budget_and_loses_less_importance(pocketvit: Command, tmp_path: Path) -> None:
    lost = {}
    for search in ("one-shot", "milp"):
        quick = ("--epochs", 1, "--recovery-epochs", 0, "--no-reconstruct", "--budget", "macs=0.6", "--search", search)
        answer = pocketvit("compress", *TINY, *quick, "--runs", tmp_path, "--name", search)
        assert answer.code == 0, answer.err
        before, after = (PLAN_DOCUMENT.read(tmp_path / search / part / "plan.json") for part in ("baseline", "sliced"))
        assert 0.58 * macs(before) <= macs(after) <= 0.6 * macs(before)
        lines = [json.loads(line) for line in (tmp_path / search / "search" / "journal.jsonl").read_text().splitlines()]
        assert lines[0]["settings"]["search"] == search
        lost[search] = sum(line["importance"] for line in lines[1:-1])
    # the same units, added up in another order, may differ in the last digit
    assert lost["milp"] <= lost["one-shot"] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("told", "optimizer", "align", "lr"),
    [((), "sgd", "mask", 4.0), (("--exact",), "adam", "interpolate", 0.05), (("--odds-lr", 3), "sgd", "mask", 3.0)],
)
def test_tas_learns_as_suits_a_trained_model_or_as_published(
    pocketvit: Command, tmp_path: Path, told: tuple[object, ...], optimizer: str, align: str, lr: float
) -> None:
    asked = ("--search", "tas", "--budget", "macs=0.6", "--search-epochs", 1, "--epochs", 1, "--recovery-epochs", 0)
    short = ("--no-reconstruct", "--runs", tmp_path, "--name", "run")
    answer = pocketvit("compress", *TINY, *asked, *told, *short)
    assert answer.code == 0, answer.err
    learnt = json.loads((tmp_path / "run" / "search" / "tas.jsonl").read_text().splitlines()[0])["settings"]["tas"]
    assert (learnt["optimizer"], learnt["align"], learnt["lr"]) == (optimizer, align, lr)


def test_tas_lands_within_the_tolerance_and_repeats_after_a_kill(pocketvit: Command, tmp_path: Path) -> None:
    told = ("--tolerance", "0.1", "--search-epochs", 2, "--odds-lr", 10)
    asked = ("--search", "tas", "--budget", "macs=0.6", *told)
    for name in ("whole", "cut"):
        answer = pocketvit("compress", *TINY, *asked, "--runs", tmp_path, "--name", name)
        assert answer.code == 0, answer.err
        if name == "cut":  # as a kill between the search's end and its journal leaves it, and in recovery
            for file in ("search/journal.jsonl", "sliced/metrics.json"):
                (tmp_path / "cut" / file).unlink()
            answer = pocketvit("compress", *TINY, *asked, "--runs", tmp_path, "--name", name, "--resume")
            assert answer.code == 0, answer.err
    before, after = (PLAN_DOCUMENT.read(tmp_path / "whole" / part / "plan.json") for part in ("baseline", "sliced"))
    assert 0.54 * macs(before) <= macs(after) <= 0.6 * macs(before)
    assert lasting(tmp_path / "whole") == lasting(tmp_path / "cut")
    assert not list(tmp_path.rglob("tas.safetensors"))
    assert len((tmp_path / "whole" / "search" / "tas.jsonl").read_text().splitlines()) > 2


def lasting(root: Path) -> dict[str, bytes]:
    patterns = ("search/**/*", "baseline/*", "sliced/*")
    files = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def test_rounds_of_branch_and_bound_survive_kills(pocketvit: Command, tmp_path: Path) -> None:
    answer = pocketvit("compress", *TINY, *ROUNDS, "--runs", tmp_path, "--name", "whole")
    assert answer.code == 0, answer.err
    whole = tmp_path / "whole"
    before, after = (PLAN_DOCUMENT.read(whole / part / "plan.json") for part in ("baseline", "sliced"))
    assert 0.8 * params(before) < params(after) <= 0.85 * params(before)
    assert all(w % MULTIPLE == 0 for b in after.blocks for w in (b.qk_dim, b.v_dim, b.mlp_dim))
    rounds = sorted(path.name for path in (whole / "search").iterdir())
    assert rounds == [f"iteration-{i:02}" for i in range(1, len(rounds) + 1)]
    assert len(rounds) >= 2
    assert len(METRICS_DOCUMENT.read(whole / "sliced" / "metrics.json").epochs) == len(rounds)
    arguments = ("compress", *TINY, *ROUNDS, "--runs", tmp_path, "--name", "cut", "--resume")
    kill_at(PLACES, tmp_path / "cut", *arguments)
    done = preloaded.run(*arguments, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert lasting(tmp_path / "cut") == lasting(whole)


def test_too_few_rounds_are_said(pocketvit: Command, tmp_path: Path) -> None:
    answer = pocketvit(
        "compress", *TINY, *ROUNDS, "--iterations", 1, "--budget", "params=0.5", "--runs", tmp_path, "--name", "few"
    )
    assert answer.code == 2
    assert "not met after 1 rounds" in " ".join(answer.err.split())
    assert "--iterations" in answer.err
    assert not (tmp_path / "few" / "sliced").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--search", "random"), "one-shot, milp, greedy, dfbnb, tas, uniform or unstructured"),
        (("--search", "dfbnb", "--depth", "0"), "depth must be at least 1"),
        (("--search", "dfbnb", "--epsilon", "-1"), "epsilon must not be negative"),
        (("--search", "dfbnb", "--iterations", "0"), "iterations must be at least 1"),
        (("--search", "tas", "--search-epochs", "0"), "epochs of a search must be at least 1"),
        (("--search", "tas", "--candidates", "1"), "candidates must be at least 2"),
        (("--search", "tas", "--tolerance", "0"), "tolerance must be more than 0"),
        (("--search", "tas", "--odds-lr", "0"), "lr must be positive"),
        (("--search", "tas", "--cost", "params"), "goes by what the budget counts"),
    ],
)
def test_bad_search_options(pocketvit: Command, tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    answer = pocketvit("run", *arguments, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert text in " ".join(answer.err.split())
    assert not (tmp_path / "runs").exists()
