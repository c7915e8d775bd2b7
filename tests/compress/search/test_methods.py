"""What the registry says of the methods, and what their journals keep from earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.budget import COUNTS, Budget
from compress.data.augment import augmentation_for
from compress.recipe import TrainRecipe
from compress.search import METHODS
from compress.search.base import GroupSizes, usual_groups
from compress.search.sparse_settings import SparseSettings
from compress.search.tas.learning import OddsTraining
from compress.search.tas.settings import TasSettings
from compress.search.tree.method import recorded
from compress.search.tree.settings import TreeEffort, TreeSettings
from runtime import PlanError, macs
from tests.compress.tiny import SPEC, TINY_PLAN, tiny_vit, toy_data

RUNS = Path(__file__).parents[2] / "golden" / "run-folders"


def settings_of(run: str) -> dict[str, Any]:
    own: dict[str, Any] = json.loads((RUNS / run / "run.json").read_text())["settings"]
    return own


def header(path: Path) -> dict[str, Any]:
    own: dict[str, Any] = json.loads(path.read_text().splitlines()[0])["settings"]
    return own


def test_classifiers_with_wide_mlps_have_larger_steps() -> None:
    wide = replace(TINY_PLAN, blocks=tuple(replace(block, mlp_dim=1024) for block in TINY_PLAN.blocks))
    assert usual_groups(wide) == GroupSizes(mlp=32, qk=16)
    assert usual_groups(replace(wide, blocks=(*wide.blocks[1:], TINY_PLAN.blocks[0]))) == GroupSizes()
    assert usual_groups(replace(wide, output="vector")) == GroupSizes()
    assert usual_groups(TINY_PLAN) == GroupSizes()


def test_every_method_is_registered_under_its_name() -> None:
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in METHODS}
    assert [name for name, method in METHODS.items() if not method.needs_budget] == ["unstructured"]
    kinds = {name: (method.settings, method.group) for name, method in METHODS.items() if method.settings}
    assert kinds == {
        "greedy": (TreeSettings, "tree"),
        "dfbnb": (TreeSettings, "tree"),
        "tas": (TasSettings, "tas"),
        "unstructured": (SparseSettings, "sparse"),
    }
    with pytest.raises(PlanError, match="Unknown search method"):
        METHODS["two-shot"]


def test_the_journal_of_a_tree_is_that_of_earlier_versions() -> None:
    settings = TreeSettings(**settings_of("tree")["tree"])
    before = header(RUNS / "tree" / "search" / "iteration-01" / "journal.jsonl")
    assert recorded(settings, TreeEffort(GroupSizes())) == before["tree"]


def test_the_journal_of_a_transformable_search_is_that_of_earlier_versions() -> None:
    settings, recipe = TasSettings(**settings_of("tas")["tas"]), TrainRecipe(epochs=3)
    before = header(RUNS / "tas" / "search" / "journal.jsonl")
    now = METHODS["tas"].recorded(settings, recipe)
    assert now["tas"] == before["tas"]
    assert now["recipe"]["epochs"] == before["recipe"]["epochs"] == settings.epochs
    assert now["recipe"].keys() == before["recipe"].keys()


def test_an_unfinished_transformable_search_of_an_earlier_version_is_resumed() -> None:
    """Its state is known by a text that names the class of its settings as it was called then."""
    data, budget = toy_data(), Budget(COUNTS["macs"], macs(TINY_PLAN) // 2)
    recipe, odds = TrainRecipe(epochs=1), TasSettings().odds_recipe()
    training = OddsTraining(tiny_vit(), budget, data, SPEC, recipe, odds, augmentation_for(data), 0, False)
    assert training.fingerprint.startswith(
        f"{recipe!r}|TasSettings(candidates=8, least_share=0.1, tolerance=0.05, cost_weight=0.2, optimizer='sgd', "
        "lr=4.0, weight_decay=0.0, clip_norm=0.05, hot=1.0, cold=0.1, records=100, align='mask', drawn=8)|Augmentation("
    )
