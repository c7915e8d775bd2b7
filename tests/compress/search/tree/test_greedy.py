from __future__ import annotations

from pathlib import Path

import pytest

from compress.budget import COUNTS, Budget
from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from compress.search.tree.greedy import search_greedily
from compress.search.tree.journal import TreeJournal
from compress.search.tree.search import search_tree
from compress.search.tree.settings import TreeSettings
from runtime import PlanError, params

from .paths import assert_it_ends_at_the_budget
from .test_search import digits, images_of, trained

__all__ = ["digits", "trained"]

PARAMS = COUNTS["params"]


@pytest.mark.slow
def test_every_step_is_the_best_of_the_five(trained: SlicedViT, digits: Dataset) -> None:
    """A tree of depth one under the same model finds the same child."""
    images, total = images_of(digits, 1), params(trained.plan)
    one_less = Budget(PARAMS, total - 1)
    found = search_greedily(trained, images, PARAMS, total, TreeSettings(), budget=one_less)
    tree = search_tree(trained, images, PARAMS, total, TreeSettings(depth=1), budget=one_less)
    assert found.best_smaller is not None
    assert tree.best_smaller is not None
    assert found.best_smaller.path == tree.best_smaller.path
    assert found.best_smaller.kept == tree.best_smaller.kept
    assert found.best_smaller.objective == tree.best_smaller.objective
    assert len(found.best_smaller.path) == 1


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 0.6, 0.35])
def test_it_meets_the_budget_and_repeats_from_its_journal(
    trained: SlicedViT, digits: Dataset, tmp_path: Path, share: float
) -> None:
    images, total = images_of(digits, 2, per_class=2), params(trained.plan)
    budget = Budget(PARAMS, int(share * total))
    told: list[str] = []

    def search(name: str) -> object:
        journal = TreeJournal(tmp_path / name, {"share": share})
        return search_greedily(trained, images, PARAMS, total, TreeSettings(), budget=budget, journal=journal)

    found = search("whole")
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    for keep in (1, len(lines) // 3, len(lines) - 2):
        (tmp_path / "cut").write_text("".join(lines[:keep]) + lines[keep][: len(lines[keep]) // 2])
        assert search("cut") == found
        assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    again = search_greedily(
        trained,
        images,
        PARAMS,
        total,
        TreeSettings(),
        budget=budget,
        progress=lambda stage, done, total, note="": told.append(note),
    )
    assert again == found
    assert told
    assert params(again.best.plan) <= budget.limit
    assert_it_ends_at_the_budget(trained.plan, again.best, budget)


@pytest.mark.slow
def test_a_budget_out_of_reach_and_one_met_already(trained: SlicedViT, digits: Dataset) -> None:
    images, total = images_of(digits, 2, per_class=2), params(trained.plan)
    met = search_greedily(trained, images, PARAMS, total, TreeSettings(), budget=Budget(PARAMS, total))
    assert met.best_smaller is None
    assert met.nodes == 1
    with pytest.raises(PlanError, match="cannot be met with these group sizes"):
        search_greedily(trained, images, PARAMS, total, TreeSettings(), budget=Budget(PARAMS, 100))
