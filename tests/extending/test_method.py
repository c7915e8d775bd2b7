"""A search method with its settings from one file outside the package: its options, run, journal, report and study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime import PLAN_DOCUMENT
from tests.pocketvit.conftest import TINY

from .plugins import run

PLUGIN = '''
"""Keeps embed_dim and heads, and every block the same share of its most important MLP units."""

from dataclasses import dataclass, replace
from typing import Annotated

from compress.search import METHODS
from compress.search.base import Proposal, SearchMethod
from runtime import PlanError, check_fields
from runtime.options import Option


@dataclass(frozen=True)
class ToySettings:
    """How much of every MLP stays."""

    mlp_share: Annotated[float, Option("Share of the units of every MLP that stay, 0 to 1.", name="--toy-share")] = 0.5
    step: int = 8
    rounded_up: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.mlp_share <= 1:
            raise PlanError("--toy-share is a share", expected="more than 0 and at most 1", got=self.mlp_share)


def choose(inputs):
    from compress.importance.units import lost_importance
    from compress.search.steps import width_steps
    from compress.search.uniform import most_important

    def width(units):
        steps = units * inputs.settings.mlp_share / inputs.settings.step
        return inputs.settings.step * max(1, round(steps + (0.5 if inputs.settings.rounded_up else 0)))

    plan = inputs.model.plan
    smaller = replace(plan, blocks=tuple(replace(own, mlp_dim=width(own.mlp_dim)) for own in plan.blocks))
    cost = inputs.required_budget.of(smaller)
    if cost > inputs.required_budget.limit:
        raise inputs.required_budget.unreachable(cost)
    importance = inputs.take_importance()
    kept = most_important(plan, importance, smaller)
    lost = lost_importance(importance, kept)
    return Proposal(smaller, kept, width_steps(plan, smaller, inputs.required_budget, lost))


METHODS.register(
    "toy",
    SearchMethod(
        name="toy",
        summary="the same share of every MLP",
        choose=choose,
        settings=ToySettings,
        explain="By the method toy, every MLP keeps the same share of its most important units.",
    ),
)
'''

STUDY = """
[study]
name = "toys"
budgets = ["macs=0.9"]
targets = []

[common]
img-size = 32
patch-size = 16
model = "vit_tiny_patch16_224"
model-arg = ["embed_dim=32", "depth=2", "num_heads=2"]

[methods.plain]

[methods.quarter]
search = "toy"
toy-share = 0.25
toy-rounded-up = true
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "toy_method.py").write_text(PLUGIN)
    return tmp_path


@pytest.mark.slow
def test_help_lists_its_name_and_its_options(place: Path) -> None:
    page = " ".join(run(place, "toy_method", "run", "--help").stdout.replace("│", " ").split())
    assert "unstructured or toy. [default: one-shot]" in page
    assert "Search method toy" in page
    assert "--toy-share FLOAT Share of the units of every MLP that stay, 0 to 1. [default: 0.5]" in page
    assert "--toy-step INT [default: 8]" in page
    assert "--toy-rounded-up --no-toy-rounded-up" in page


@pytest.mark.slow
def test_a_run_uses_its_settings_and_goes_on_with_them(place: Path) -> None:
    quick = (*TINY, "--epochs", 1, "--recovery-epochs", 0, "--budget", "macs=0.9", "--runs", place, "--name", "mine")
    asked = (*quick, "--search", "toy", "--toy-share", "0.25")
    done = run(place, "toy_method", "run", *asked, "--formats", "fp32", "--bench-seconds", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert {row["name"] for row in summary["rows"]} >= {"baseline", "sliced", "mine.fp32.tflite"}
    assert summary["made_with"]["search"] == "toy"
    root = place / "mine"
    settings = json.loads((root / "run.json").read_text())["settings"]
    assert settings["search"] == "toy"
    assert settings["method_settings"] == {"toy": {"mlp_share": 0.25, "step": 8, "rounded_up": False}}
    plan = PLAN_DOCUMENT.read(root / "sliced" / "plan.json")
    assert {block.mlp_dim for block in plan.blocks} == {32}
    for name in ("report.html", "report.md"):
        assert "By the method toy, every MLP keeps the same share" in (root / name).read_text()
        assert "search toy" in (root / name).read_text()
    assert "search toy" in " ".join(run(place, "toy_method", "report", root).stdout.split())
    again = run(place, "toy_method", "run", *asked, "--formats", "fp32", "--bench-seconds", "0.1", "--resume")
    assert again.returncode == 0, again.stderr
    other = run(place, "toy_method", "run", *asked, "--toy-step", "16", "--formats", "fp32", "--resume")
    assert other.returncode == 2
    assert "'step': 16" in other.stderr
    exported = run(place, "toy_method", "export", root, "--formats", "onnx")
    assert exported.returncode == 0, exported.stderr
    unknown = run(place, "json", "export", root, "--formats", "onnx")
    assert unknown.returncode == 2
    assert "'toy'" in unknown.stderr


@pytest.mark.slow
def test_a_study_sets_its_settings_by_their_keys(place: Path) -> None:
    (place / "toys.toml").write_text(STUDY)
    done = run(place, "toy_method", "study", place / "toys.toml", "--list", "--json")
    assert done.returncode == 0, done.stderr
    cells = {cell["method"]: cell for cell in json.loads(done.stdout)["cells"]}
    assert "--toy-share 0.25 --toy-rounded-up" in cells["quarter"]["command"]
    assert "--toy" not in cells["plain"]["command"]
    (place / "toys.toml").write_text(STUDY.replace("toy-share = 0.25", "toy-share = 7"))
    wrong = run(place, "toy_method", "study", place / "toys.toml", "--list")
    assert wrong.returncode == 2
    assert "[methods.quarter]" in wrong.stderr
    assert "--toy-share is a share" in wrong.stderr
