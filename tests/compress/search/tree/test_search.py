from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.budget import COUNTS, Budget
from compress.data.dataset import Dataset
from compress.data.search_images import SearchImages, draw_search_images
from compress.model.slicing import keep_all, plan_of
from compress.model.vit import SlicedViT
from compress.search.one_shot import GroupRemoval
from compress.search.tree.evaluation import objective
from compress.search.tree.journal import TreeJournal
from compress.search.tree.nodes import SearchResult
from compress.search.tree.search import TreeSearch, search_tree
from compress.search.tree.settings import TreeEffort, TreeSettings
from runtime import PlanError, params, silent
from tests.compress.digits import GENTLE, SPEC, digits_data, digits_model
from tests.compress.plain_search import Plain

from .paths import assert_it_ends_at_the_budget

SEEDS = range(10)


@pytest.fixture
def digits() -> Dataset:
    return digits_data()


@pytest.fixture
def trained() -> SlicedViT:
    return digits_model()


def images_of(digits: Dataset, seed: int, per_class: int = 6) -> SearchImages:
    return draw_search_images(digits, SPEC, GENTLE, per_class=per_class, seed=seed, iteration=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_decides_what_the_plain_search_decides(trained: SlicedViT, digits: Dataset, seed: int) -> None:
    images = images_of(digits, seed, per_class=4)
    settings, effort = TreeSettings(depth=3, epsilon=0.1, exact=True), TreeEffort(gradient_batch=20, eval_batch=10)
    found = search_tree(trained, images, COUNTS["params"], params(trained.plan), settings, effort=effort)
    pictures, labels = images.at(np.arange(len(images)))
    plain = Plain(trained, pictures, labels, depth=3, epsilon=0.1, batch=20)
    plain.run()
    assert [(step.action, step.block) for step in found.best.path] == list(plain.best_path)
    assert found.best.kept == plain.best_kept
    assert found.best.objective == pytest.approx(plain.best, abs=1e-12)
    assert found.best.plan == plan_of(trained.plan, found.best.kept)
    assert found.best.cost == params(found.best.plan)
    assert found.images < plain.forward_equivalents
    assert found.nodes <= plain.nodes


@pytest.mark.slow
def test_without_exact_it_is_rarely_worse(trained: SlicedViT, digits: Dataset) -> None:
    """At the published depth and tolerance: no worse than epsilon in nine of ten, better on average."""
    total, gains = params(trained.plan), []
    for seed in SEEDS:
        images = images_of(digits, seed)
        exact, quick = (
            search_tree(trained, images, COUNTS["params"], total, TreeSettings(exact=exact)) for exact in (True, False)
        )
        gains.append(quick.best.objective - exact.best.objective)
    assert sum(gain >= -TreeSettings().epsilon for gain in gains) >= 9
    assert sum(gains) > 0


@pytest.mark.slow
def test_importance_is_taken_anew_after_so_many_actions(trained: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    images, total = images_of(digits, 1), params(trained.plan)
    for refresh, fresh in ((1, {0, 1, 2, 3}), (2, {0, 2}), (9, {0})):
        settings, effort = TreeSettings(depth=4, epsilon=0.0), TreeEffort(refresh=refresh, gradient_share=1 / 3)
        path = tmp_path / f"{refresh}.jsonl"
        journal = TreeJournal(path, {})
        search_tree(trained, images, COUNTS["params"], total, settings, effort=effort, journal=journal)
        dive = [json.loads(line) for line in path.read_text().splitlines()][1:5]
        assert [line["op"] for line in dive] == ["branch"] * 4
        assert {depth for depth, line in enumerate(dive) if line["images"]} == fresh
        assert {line["images"] for line in dive if line["images"]} == {3 * 20}


@pytest.mark.parametrize("exact", [False, True])
def test_what_loses_nothing_is_not_looked_at_again(
    trained: SlicedViT, digits: Dataset, tmp_path: Path, exact: bool
) -> None:
    """Eight hidden units that nothing reads: without them the model answers as it did, and one look serves both."""
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight[:, :8] = 0
    settings, path = TreeSettings(depth=1, exact=exact), tmp_path / "j.jsonl"
    search_tree(
        model, images_of(digits, 1), COUNTS["params"], params(model.plan), settings, journal=TreeJournal(path, {})
    )
    looks = [line for line in map(json.loads, path.read_text().splitlines()) if line.get("op") == "look"]
    root = next(look for look in looks if not look["path"])
    same = next(look for look in looks if look["path"] == [{"action": "mlp", "block": 1}])
    assert (root["images"] == 0) is not exact
    if not exact:
        assert root["correct"] <= same["correct"]
        assert not root["complete"]


def test_what_is_expected_to_change_an_answer_is_looked_at(trained: SlicedViT, digits: Dataset) -> None:
    """Of 60 images, in gradients of 16, one is within reach of a tie from sqrt(16 I) = 1 / 60 on."""
    images, total = images_of(digits, 1), params(trained.plan)
    tree = TreeSearch(images, COUNTS["params"], total, TreeSettings(), TreeEffort(), None, False, None, silent)
    for share, negligible in ((0.99, True), (1.01, False)):
        option = GroupRemoval("mlp", 0, share / (16 * len(images) ** 2), keep_all(trained.plan))
        assert tree.negligible(option) is negligible


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_every_operation_is_recorded_and_the_counts_add_up(
    trained: SlicedViT, digits: Dataset, tmp_path: Path, exact: bool
) -> None:
    images, total = images_of(digits, 1), params(trained.plan)
    settings = TreeSettings(depth=3, epsilon=0.1, exact=exact)
    journal = TreeJournal(tmp_path / "j.jsonl", {"seed": 1})
    found = search_tree(trained, images, COUNTS["params"], total, settings, journal=journal)
    _, *lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    looks = [line for line in lines if line["op"] == "look"]
    assert len(looks) == found.nodes
    assert sum(line["op"] == "branch" for line in lines) == found.branched
    assert sum(line["op"] == "repeat" for line in lines) == found.repeats
    assert found.repeats > 0 or not exact
    assert sum(line["images"] for line in lines if line["op"] != "repeat") == found.images
    if exact:
        assert {line["images"] for line in lines if line["op"] == "branch"} == {3 * len(images)}
    for look in looks:
        assert look["objective"] == objective(look["correct"], len(images), look["cost"], total, 1.0)
        assert look["verdict"] in ("branched", "bounded", "leaf", *(() if exact else ("passed",)))
        assert (look["verdict"] == "leaf") == (len(look["path"]) == 3)
        assert look["complete"] or look["verdict"] != "branched"
    assert max(look["objective"] for look in looks if look["complete"]) == found.best.objective
    assert found.root.kept == keep_all(trained.plan)
    assert any(not look["complete"] for look in looks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [TreeSettings(depth=3, epsilon=0.1), TreeSettings(depth=2, epsilon=0.0, exact=True)]
)
def test_progress_grows_to_its_end_and_shows_the_best_plan(
    trained: SlicedViT, digits: Dataset, settings: TreeSettings
) -> None:
    told: list[tuple[int, int, str]] = []
    found = search_tree(
        trained,
        images_of(digits, 1),
        COUNTS["params"],
        params(trained.plan),
        settings,
        progress=lambda stage, done, total, note="": told.append((done, total, note)),
    )
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert shares[-2] <= shares[-1] == 1.0
    assert shares[0] < 0.5
    assert told[-1][0] == found.images
    assert len(told) == found.nodes + 1
    assert found.best_smaller is not None
    assert f"best {found.best_smaller.objective:.4f}: top-1 " in told[-1][2]
    assert "→" in told[-1][2]
    assert ("nothing removed" in told[0][2]) == settings.exact
    assert told[0][2].endswith(f"node 1, depth {0 if settings.exact else settings.depth}")


class KilledError(Exception):
    """Stands for a process that is no more."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_search_goes_on_where_it_stopped(
    trained: SlicedViT, digits: Dataset, tmp_path: Path, seed: int
) -> None:
    images, total, settings = images_of(digits, seed), params(trained.plan), TreeSettings(depth=3, epsilon=0.1)

    def search(name: str, stop: int | None = None) -> SearchResult:
        looked = [0]

        def progress(stage: str, done: int, total: int, note: str = "") -> None:
            looked[0] += 1
            if looked[0] == stop:
                raise KilledError

        journal = TreeJournal(tmp_path / name, {"seed": seed})
        return search_tree(trained, images, COUNTS["params"], total, settings, journal=journal, progress=progress)

    whole = search("whole")
    generator = np.random.default_rng(seed)
    for stop in np.sort(generator.integers(1, whole.nodes, 10)):
        with pytest.raises(KilledError):
            search("cut", int(stop))
        content = (tmp_path / "cut").read_bytes()
        (tmp_path / "cut").write_bytes(content[: len(content) - int(generator.integers(0, 40))])
    assert search("cut") == whole
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert search("cut") == whole
    other = TreeJournal(tmp_path / "cut", {"seed": seed + 100})
    assert other.replay("look") is None


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.97, 0.9])
def test_a_goal_is_met_and_hardly_undershot(trained: SlicedViT, digits: Dataset, share: float) -> None:
    images, total = images_of(digits, 4), params(trained.plan)
    goal, settings = int(share * total), TreeSettings(depth=8, epsilon=0.0)
    found = search_tree(trained, images, COUNTS["params"], total, settings, budget=Budget(COUNTS["params"], goal))
    assert found.best_smaller is not None
    assert found.best_smaller.path
    assert_it_ends_at_the_budget(trained.plan, found.best_smaller, Budget(COUNTS["params"], goal))
    already = search_tree(trained, images, COUNTS["params"], total, settings, budget=Budget(COUNTS["params"], total))
    assert already.best_smaller is None
    assert already.nodes == 1


@pytest.mark.slow
def test_nothing_global_is_touched_and_it_repeats(trained: SlicedViT, digits: Dataset) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    images, settings = images_of(digits, 2), TreeSettings(depth=2)
    first = search_tree(trained, images, COUNTS["params"], params(trained.plan), settings)
    again = search_tree(trained, images_of(digits, 2), COUNTS["params"], params(trained.plan), settings)
    assert first == again
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert not trained.training


def test_search_images_are_fresh_for_every_iteration_and_of_every_class(digits: Dataset) -> None:
    sets = [draw_search_images(digits, SPEC, GENTLE, per_class=4, seed=3, iteration=i) for i in (0, 1, 0)]
    assert (np.bincount(sets[0].labels) == 4).all()
    assert np.array_equal(sets[0].pixels, sets[2].pixels)
    assert not np.array_equal(sets[0].pixels, sets[1].pixels)
    together = torch.cat([pictures for pictures, _ in sets[0].batches(7)])
    whole, labels = sets[0].at(np.arange(40))
    assert torch.equal(together, whole)
    assert labels.tolist() == sets[0].labels.tolist()
    assert sets[0].pixels.dtype == np.uint8


def test_the_objective_by_hand() -> None:
    assert objective(50, 100, 100, 100, 1.0) == -1.0
    assert objective(100, 100, 25, 100, 1.0) == 2.0
    assert objective(100, 100, 25, 100, 0.5) == 1.0
    assert objective(0, 100, 25, 100, 1.0) == -math.inf


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (TreeSettings, {"depth": 0}),
        (TreeSettings, {"iterations": 0}),
        (TreeSettings, {"epsilon": -1.0}),
        (TreeSettings, {"cost_weight": math.inf}),
        (TreeSettings, {"round_epochs": -1}),
        (TreeEffort, {"eval_batch": 0}),
        (TreeEffort, {"gradient_share": 0.0}),
        (TreeEffort, {"error": 1.0}),
    ],
)
def test_settings_out_of_range_are_refused(kind: type[Any], change: dict[str, float]) -> None:
    with pytest.raises(PlanError, match="must"):
        kind(**change)
