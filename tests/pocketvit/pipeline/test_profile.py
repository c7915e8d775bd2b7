from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime import LATENCY_DOCUMENT, PLAN_DOCUMENT, latency_of
from tests.pocketvit.conftest import Command

SMALL = (
    *("--model", "vit_tiny_patch16_224", "--img-size", "32", "--patch-size", "8", "--threads", "1"),
    *("--model-arg", "embed_dim=32", "--model-arg", "depth=2", "--model-arg", "num_heads=2"),
)
QUICK = (
    *("--epochs", "2", "--recovery-epochs", "1", "--train-limit", "200", "--importance-images", "4"),
    "--no-reconstruct",
)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles")


@pytest.mark.slow
def test_a_profile_is_measured_kept_and_taken_up_where_it_stopped(
    pocketvit: Command, profiles: Path, tmp_path: Path
) -> None:
    answer = pocketvit("profile", *SMALL, "--profiles", profiles)
    assert answer.code == 0, answer.err
    for heading in ("MLPs", "attentions", "whole model", "predicted", "measured", "Median error"):
        assert heading in answer.out
    (path,) = profiles.glob("cpu-fp32-*.json")
    table = LATENCY_DOCUMENT.read(path)
    assert table.baseline.embed_dim == 32
    assert (table.target, table.precision, table.threads) == ("cpu", "fp32", 1)
    assert 15 <= len(table.checks) <= 20  # a few random plans of so small a model are the same
    times = path.with_suffix(".jsonl")
    whole = times.read_text().splitlines(keepends=True)
    assert {json.loads(line)["pooled_only"] for line in whole} == {False, True}
    times.write_text("".join(whole[: len(whole) // 2]) + whole[len(whole) // 2][:20])
    path.unlink()
    again = pocketvit("profile", *SMALL, "--profiles", profiles, "--json")
    assert again.code == 0, again.err
    document = json.loads(again.out)
    assert document["schema"] == "pocketvit.latency"
    assert Path(document["file"]) == path
    lines = times.read_text().splitlines(keepends=True)
    assert lines[: len(whole) // 2] == whole[: len(whole) // 2]
    assert len(lines) == len(whole)
    before = path.read_bytes()
    assert pocketvit("profile", *SMALL, "--profiles", profiles).code == 0
    assert path.read_bytes() == before
    older = tmp_path / times.name  # of a form that does not tell the two kinds of file apart
    older.write_text("".join(line.replace(', "pooled_only": true', "") for line in whole))
    answer = pocketvit("profile", *SMALL, "--profiles", tmp_path)
    assert answer.code == 2
    assert "is damaged" in " ".join(answer.err.split())


@pytest.mark.slow
@pytest.mark.parametrize("search", ["one-shot", "milp", "greedy", "dfbnb"])
def test_a_budget_of_time_is_met(pocketvit: Command, profiles: Path, tmp_path: Path, search: str) -> None:
    told = (*SMALL, *QUICK, "--profiles", profiles, "--runs", tmp_path, "--name", search)
    answer = pocketvit("compress", *told, "--search", search, "--budget", "latency=0.8@cpu")
    assert answer.code == 0, answer.err
    table = LATENCY_DOCUMENT.read(tmp_path / search / "search" / "latency.json")
    latency = latency_of(table)
    assert 1 <= len(table.anchors) <= 5
    assert not any(LATENCY_DOCUMENT.read(path).anchors for path in profiles.glob("*.json"))
    before, after = (PLAN_DOCUMENT.read(tmp_path / search / part / "plan.json") for part in ("baseline", "sliced"))
    assert latency(after) <= 0.8 * latency(before)
    assert after != before


@pytest.mark.slow
def test_time_can_choose_within_a_budget_of_parameters(pocketvit: Command, profiles: Path, tmp_path: Path) -> None:
    told = (*SMALL, *QUICK, "--profiles", profiles, "--runs", tmp_path, "--name", "mixed")
    answer = pocketvit("compress", *told, "--cost", "latency@cpu", "--budget", "params=0.8")
    assert answer.code == 0, answer.err
    assert LATENCY_DOCUMENT.read(tmp_path / "mixed" / "search" / "latency.json").anchors == ()
    journal = [json.loads(line) for line in (tmp_path / "mixed" / "search" / "journal.jsonl").read_text().splitlines()]
    assert (journal[0]["settings"]["cost"], journal[0]["settings"]["budget"]) == ("latency@cpu", "params=0.8")
    assert len(journal[0]["settings"]["latency_sha256"]) == 64


@pytest.mark.slow
def test_a_run_goes_by_its_table_alone_where_it_is_told_to(pocketvit: Command, profiles: Path, tmp_path: Path) -> None:
    told = (*SMALL, *QUICK, "--profiles", profiles, "--runs", tmp_path, "--name", "table", "--no-latency-check")
    assert pocketvit("compress", *told, "--budget", "latency=0.8@cpu").code == 0
    (path,) = profiles.glob("*.json")
    assert LATENCY_DOCUMENT.read(tmp_path / "table" / "search" / "latency.json") == LATENCY_DOCUMENT.read(path)


@pytest.mark.slow
def test_a_budget_no_plan_meets_is_said_before_anything_is_trained(
    pocketvit: Command, profiles: Path, tmp_path: Path
) -> None:
    told = (*SMALL, *QUICK, "--profiles", profiles, "--runs", tmp_path, "--name", "fast")
    answer = pocketvit("compress", *told, "--budget", "latency=0.0001ms@cpu")
    assert answer.code == 2
    assert "cannot be met by this model. Expected at least latency=" in " ".join(answer.err.split())
    assert not (tmp_path / "fast" / "baseline").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--cost", "time"), "That is not a cost"),
        (("--budget", "latency=12ms@toaster"), "cannot be profiled"),
        (("--budget", "latency=12ms"), "That is not a budget"),
        (("--budget", "latency=12@cpu"), "A time needs its unit"),
        (("--cost", "latency@cpu", "--budget", "latency=0.5@pi5"), "name two targets"),
        (("--search", "milp", "--cost", "params"), "goes by what the budget counts"),
        (("--latency-precision", "fp8"), "fp32 or int8"),
        (("--latency-threads", "0"), "latency_threads must be at least 1"),
        (("--round-epochs", "-1"), "round_epochs must not be negative"),
    ],
)
def test_bad_costs_and_budgets(pocketvit: Command, tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    answer = pocketvit("run", *arguments, "--runs", tmp_path / "runs", "--profiles", tmp_path / "profiles")
    assert answer.code == 2
    assert text in " ".join(answer.err.split())
    assert "Traceback" not in answer.err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "profiles").exists()


def test_a_damaged_profile_is_said_and_an_unknown_target_refused(pocketvit: Command, tmp_path: Path) -> None:
    answer = pocketvit("profile", *SMALL, "--profiles", tmp_path, "--target", "toaster")
    assert answer.code == 2
    assert "cannot be profiled" in answer.err
