from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from math import ceil, log2
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compress.budget import COUNTS, Budget, parse_cost
from compress.data.augment import Augmentation
from compress.importance.units import Importance
from compress.model.slicing import keep_all, plan_of, slice_vit
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from compress.search.base import Proposal
from compress.search.tas.candidates import candidates_of, plan_with
from compress.search.tas.search import TAS_JOURNAL, TAS_STATE, search_tas
from compress.search.tas.settings import ODDS_AS_PUBLISHED, OddsRecipe
from compress.train.fit import fit
from runtime import BlockPlan, PlanError, ShapePlan, StorageError
from tests.compress.search.test_one_shot import random_importance
from tests.compress.tiny import SPEC, TINY_PLAN, tiny_vit, toy_data
from tests.compress.train.test_fit import Killed, fitful_clock, kill_after, restless_clock
from tests.tables import stair_table

PLAN = replace(
    TINY_PLAN, embed_dim=32, blocks=(BlockPlan(2, 16, 8, 64), BlockPlan(3, 8, 16, 48), BlockPlan(2, 8, 8, 64))
)
RECIPE = TrainRecipe(epochs=3, batch_size=8, lr=2e-3, head_lr=4e-3, warmup=0.2, patience=3, clip_norm=1.0)
SETTINGS = OddsRecipe(candidates=4, least_share=0.2, tolerance=0.1)
PUBLISHED = replace(ODDS_AS_PUBLISHED, candidates=4, least_share=0.2, tolerance=0.1, lr=0.1)
STEPS = 3 * 2
MACS = COUNTS["macs"]


def budget_of(plan: ShapePlan = PLAN, share: float = 0.6) -> Budget:
    return Budget(MACS, int(share * MACS.of(plan)))


def search(model: SlicedViT | None = None, importance: Importance | None = None, **options: Any) -> Proposal:
    model = model or tiny_vit(PLAN)
    told = {"budget": budget_of(model.plan), "data": toy_data(), "recipe": RECIPE, "settings": SETTINGS} | options
    told = {"augmentation": Augmentation(mirror=0.0), "seed": 1, "spec": SPEC} | told
    importance = importance or random_importance(model.plan)
    positional = [told.pop(name) for name in ("budget", "data", "spec", "recipe", "settings")]
    return search_tas(model, importance, *positional, **told)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TAS_JOURNAL).read_text().splitlines()]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("unit", ["macs", "params", "latency@cpu"])
def test_the_plan_lands_within_the_tolerance(unit: str, share: float) -> None:
    cost = parse_cost(unit, PLAN, {"cpu": stair_table(replace(PLAN, blocks=(BlockPlan(3, 16, 16, 64),) * 3))})
    least = plan_with(PLAN, {choice: widths[0] for choice, widths in candidates_of(PLAN, 4, 0.2).items()})
    limit = cost.of(least) + int(share * (cost.of(PLAN) - cost.of(least)))
    model, budget = tiny_vit(PLAN), Budget(cost, limit)
    found = search(model, budget=budget)
    assert 0.9 * budget.limit <= cost.of(found.plan) <= budget.limit
    shorter = replace(PLAN, blocks=PLAN.blocks[: len(found.plan.blocks)])
    assert plan_of(shorter, found.kept) == found.plan
    sliced = slice_vit(model, found.kept)
    assert sliced.plan == found.plan
    costs = [step["cost"] for step in found.steps]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == cost.of(found.plan)
    assert [step["action"] for step in found.steps] == ["embed", "depth"] + ["block"] * len(found.plan.blocks)
    assert all(step["importance"] >= 0 for step in found.steps)


@pytest.mark.slow
def test_odds_turn_to_what_the_loss_needs(tmp_path: Path) -> None:
    """A block that knows the classes, and two after it that add noise: with fixed weights the odds cut them off."""
    data, one = toy_data(240), replace(PLAN, blocks=PLAN.blocks[:1])
    wise = fit(tiny_vit(one), data, SPEC, replace(RECIPE, epochs=8), augmentation=Augmentation(mirror=0.0)).model
    noisy = tiny_vit(replace(PLAN, blocks=PLAN.blocks[:1] * 3)).state_dict()
    known = wise.state_dict()
    weights = {name: known.get(name, 2 * value if name.endswith("weight") else value) for name, value in noisy.items()}
    model = build(replace(PLAN, blocks=PLAN.blocks[:1] * 3), weights)
    free = replace(SETTINGS, cost_weight=0.0, tolerance=0.9)
    still = replace(RECIPE, epochs=12, lr=1e-12, head_lr=1e-12, weight_decay=0.0)
    budget = budget_of(model.plan, 0.95)
    found = search(model, recipe=still, settings=free, data=data, budget=budget, folder=tmp_path)
    odds = records(tmp_path)[-1]["odds"]["depth"]
    assert odds[0] > 2 * max(odds[1:])
    assert len(found.plan.blocks) == 1


@pytest.mark.slow
def test_what_nothing_reads_goes_before_what_all_read() -> None:
    """Three quarters of two blocks' hidden units are not read: those go, and mostly the stream stays as wide."""
    data, blocks = toy_data(240), (BlockPlan(2, 8, 8, 64), BlockPlan(2, 8, 8, 64))
    plan = replace(PLAN, blocks=blocks)
    start = tiny_vit(plan).state_dict()
    for i in range(2):
        start[f"blocks.{i}.mlp.fc2.weight"][:, 16:] = 0
        start[f"blocks.{i}.mlp.fc1.weight"][16:] = 0
        start[f"blocks.{i}.mlp.fc1.bias"][16:] = 0  # the activation of nothing is nothing: neither half ever learns
    steady = replace(RECIPE, epochs=8, weight_decay=0.0)
    model = fit(build(plan, start), data, SPEC, steady, augmentation=Augmentation(mirror=0.0)).model
    assert not model.blocks[0].mlp.fc2.weight[:, 16:].any()
    importance = random_importance(plan)
    for block in importance.blocks:
        block.mlp[16:] = 0
    limit = MACS.of(replace(plan, blocks=(BlockPlan(2, 8, 8, 16),) * 2))
    budget = Budget(MACS, int(1.02 * limit))
    longer = replace(steady, epochs=12)
    found = [search(model, importance, recipe=longer, data=data, budget=budget, seed=seed).plan for seed in range(5)]
    widths = [(plan.embed_dim, *(block.mlp_dim for block in plan.blocks)) for plan in found]
    assert sum(embed == 32 and sum(mlps) <= 48 for embed, *mlps in widths) >= 4, widths


def test_where_steps_are_wide_the_tolerance_is_doubled() -> None:
    settings = replace(SETTINGS, candidates=2, least_share=0.2, tolerance=0.001)
    plan = replace(PLAN, blocks=PLAN.blocks[:1])
    candidates, budget = candidates_of(plan, 2, 0.2), budget_of(plan, 0.6)
    costs = {
        MACS.of(plan_with(plan, dict(zip(candidates, picks, strict=True)))) for picks in product(*candidates.values())
    }
    below = max(cost for cost in costs if cost <= budget.limit)
    assert below < 0.99 * budget.limit
    found = MACS.of(search(tiny_vit(plan), budget=budget, settings=settings).plan)
    doublings = ceil(log2((1 - below / budget.limit) / 0.001))
    assert (1 - 0.001 * 2**doublings) * budget.limit <= found <= below


def test_the_search_is_repeatable_and_hangs_on_the_seed(tmp_path: Path) -> None:
    first = search(folder=tmp_path / "a")
    torch.manual_seed(12345)
    assert search(folder=tmp_path / "b") == first == search()
    assert (tmp_path / "a" / TAS_JOURNAL).read_bytes() == (tmp_path / "b" / TAS_JOURNAL).read_bytes()
    search(folder=tmp_path / "c", seed=2)
    assert records(tmp_path / "c")[-1]["odds"] != records(tmp_path / "a")[-1]["odds"]


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_vit(PLAN)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    search(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


def test_the_journal_has_the_odds_over_time(tmp_path: Path) -> None:
    notes: list[tuple[str, int, int, str]] = []
    budget = budget_of()
    search(folder=tmp_path, progress=lambda *told: notes.append(told))  # type: ignore[arg-type]
    header, *lines = records(tmp_path)
    assert (header["schema"], header["schema_version"]) == ("pocketvit.tas", 1)
    asked = header["settings"]
    assert (asked["cost"], asked["limit"], asked["total"]) == ("macs", budget.limit, MACS.of(PLAN))
    assert header["candidates"]["embed"] == [8, 16, 24, 32]
    assert header["candidates"]["mlp"] == [[16, 32, 48, 64], [16, 24, 40, 48], [16, 32, 48, 64]]
    assert [line["step"] for line in lines] == list(range(STEPS + 1))
    assert [line["temperature"] for line in lines[:2]] == [1.0, 0.82]
    assert lines[-1]["temperature"] == 0.1
    assert lines[0]["odds"]["embed"] == [0.25] * 4
    assert lines[0]["train_loss"] is None
    assert lines[0]["cost"] == MACS.of(PLAN)
    for line in lines[1:]:
        assert line["train_loss"] > 0
        assert line["valid_loss"] > 0
        odds = line["odds"]
        for own in (odds["embed"], odds["depth"], *odds["heads"], *odds["mlp"]):
            assert sum(own) == pytest.approx(1.0, abs=1e-5)
    assert lines[-1]["odds"]["embed"] != [0.25] * 4
    assert [(stage, done, total) for stage, done, total, _ in notes] == [("search", i + 1, STEPS) for i in range(STEPS)]
    assert "blocks, loss" in notes[-1][3]


def test_long_searches_record_about_as_often_as_asked(tmp_path: Path) -> None:
    search(folder=tmp_path, settings=replace(SETTINGS, records=2), recipe=replace(RECIPE, epochs=4))
    assert [line["step"] for line in records(tmp_path)[1:]] == [0, 4, 8]


@cache
def undisturbed(settings: OddsRecipe = SETTINGS) -> tuple[Proposal, bytes]:
    """Returns what a search that nothing disturbs finds, and its journal."""
    with TemporaryDirectory() as folder:
        return search(folder=Path(folder), settings=settings), (Path(folder) / TAS_JOURNAL).read_bytes()


@pytest.mark.parametrize("settings", [SETTINGS, PUBLISHED], ids=["sgd", "adam"])
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, STEPS])
@pytest.mark.parametrize("clock", [restless_clock, lambda: lambda: 0.0])
def test_a_killed_search_ends_as_an_undisturbed_one(
    tmp_path: Path, calls: int, clock: Callable[[], Callable[[], float]], settings: OddsRecipe
) -> None:
    whole, whole_journal = undisturbed(settings)
    with pytest.raises(Killed):
        search(folder=tmp_path / "cut", settings=settings, progress=kill_after(calls), clock=clock())
    journal = tmp_path / "cut" / TAS_JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"step": 99, "temp')  # what a kill in the midst of a line leaves
    steps: list[int] = []
    again = search(folder=tmp_path / "cut", settings=settings, progress=lambda stage, done, *more: steps.append(done))
    assert again == whole
    assert journal.read_bytes() == whole_journal
    saved = calls if clock is restless_clock else calls // 2 * 2  # an epoch has two steps
    assert steps == list(range(saved + 1, STEPS + 1))


@pytest.mark.parametrize("seed", range(3))
def test_a_search_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path, seed: int) -> None:
    generator, kills = random.Random(seed), 0
    recipe = replace(RECIPE, epochs=6)
    for _ in range(60):
        try:
            found = search(
                folder=tmp_path / "cut",
                recipe=recipe,
                progress=kill_after(generator.randint(2, 5)),
                clock=fitful_clock(generator.randrange(1000)),
            )
            break
        except Killed:
            kills += 1
    else:
        pytest.fail("never came to an end")
    assert kills >= 2
    assert found == search(folder=tmp_path / "whole", recipe=recipe)
    assert (tmp_path / "cut" / TAS_JOURNAL).read_bytes() == (tmp_path / "whole" / TAS_JOURNAL).read_bytes()


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "recipe": lambda: {"recipe": replace(RECIPE, lr=1e-3)},
    "settings": lambda: {"settings": replace(SETTINGS, lr=10.0)},
    "optimizer": lambda: {"settings": replace(SETTINGS, optimizer="adam", lr=0.1)},
    "seed": lambda: {"seed": 2},
    "budget": lambda: {"budget": budget_of(share=0.7)},
    "augmentation": lambda: {"augmentation": Augmentation(mirror=0.0, jitter=0.1)},
    "weights": lambda: {"model": tiny_vit(PLAN, seed=5)},
    "importance": lambda: {"importance": random_importance(PLAN, 7)},
    "labels": lambda: {"data": replace(toy_data(), labels=(toy_data().labels + 1) % 3)},
    "images": lambda: {"data": replace(toy_data(), train=np.arange(5, 35))},
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_state_of_another_search_is_ignored(tmp_path: Path, what: str) -> None:
    with pytest.raises(Killed):
        search(folder=tmp_path, progress=kill_after(4), clock=restless_clock())
    assert search(folder=tmp_path, **OTHERS[what]()) == search(folder=tmp_path / "new", **OTHERS[what]())
    assert (tmp_path / TAS_JOURNAL).read_bytes() == (tmp_path / "new" / TAS_JOURNAL).read_bytes()


def test_a_damaged_state_or_journal_costs_the_work_and_no_more(tmp_path: Path) -> None:
    whole, _ = undisturbed()
    with pytest.raises(Killed):
        search(folder=tmp_path, progress=kill_after(4), clock=restless_clock())
    state, journal = (tmp_path / TAS_STATE).read_bytes(), (tmp_path / TAS_JOURNAL).read_bytes()
    for size in (0, 8, 100, len(state) // 2, len(state) - 1):
        (tmp_path / TAS_STATE).write_bytes(state[:size])
        assert search(folder=tmp_path) == whole
    save_file({"weights/a": torch.zeros(1)}, tmp_path / TAS_STATE, metadata={"header": "{}"})
    assert search(folder=tmp_path) == whole
    final = (tmp_path / TAS_JOURNAL).read_bytes()
    for damaged in (b"", b"{}\n", b"[" * 50, journal[: len(journal) // 2], b"\xff" + journal):
        (tmp_path / TAS_STATE).write_bytes(state)
        (tmp_path / TAS_JOURNAL).write_bytes(damaged)
        assert search(folder=tmp_path) == whole
        assert (tmp_path / TAS_JOURNAL).read_bytes() == final


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Cannot write"):
        search(folder=tmp_path / "file" / "search")


def test_a_budget_met_already_removes_nothing() -> None:
    model = tiny_vit(PLAN)
    assert search(model, budget=budget_of(share=1.0)) == Proposal(PLAN, keep_all(PLAN), ())


def test_a_budget_out_of_reach_is_said_before_any_work() -> None:
    calls: list[int] = []
    smallest = tiny_vit(replace(TINY_PLAN, embed_dim=8, blocks=(BlockPlan(1, 8, 8, 8),)))
    for model, share in ((tiny_vit(PLAN), 0.02), (smallest, 0.99)):
        budget = budget_of(model.plan, share)
        with pytest.raises(PlanError, match="cannot be met by these candidates") as caught:
            search(model, budget=budget, progress=lambda *told: calls.append(1))
        named = int(str(caught.value).split("at least macs=")[1].split(".")[0])
        assert budget.limit < named <= MACS.of(model.plan)
    assert calls == []


def test_no_epoch_and_a_training_that_diverges_are_refused() -> None:
    with pytest.raises(PlanError, match=r"needs at least one epoch\. Got 0\."):
        search(recipe=replace(RECIPE, epochs=0))
    with pytest.raises(PlanError, match=r"diverged at step \d of 6"):
        search(recipe=replace(RECIPE, lr=1e30, head_lr=1e30, clip_norm=0.0))
    wrong = random_importance(PLAN)
    wrong.embed[3] = np.nan
    with pytest.raises(PlanError, match="not finite"):
        search(importance=wrong)


def test_bfloat16_searches_float32_weights() -> None:
    assert MACS.of(search(bf16=True).plan) <= budget_of().limit


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"candidates": 1}, "candidates must be at least 2. Got 1."),
        ({"drawn": 1}, "drawn must be at least 2. Got 1."),
        ({"clip_norm": -0.1}, "clip_norm must not be negative. Got -0.1."),
        ({"records": 0}, "records must be at least 1. Got 0."),
        ({"least_share": 0.0}, "least_share must be more than 0 and less than 1. Got 0.0."),
        ({"tolerance": 1.0}, "tolerance must be more than 0 and less than 1. Got 1.0."),
        ({"tolerance": float("nan")}, "tolerance must be more than 0"),
        ({"cost_weight": -1.0}, "cost_weight must not be negative. Got -1.0."),
        ({"weight_decay": float("inf")}, "weight_decay must not be negative. Got inf."),
        ({"align": "average"}, "does not take this for align. Expected interpolate or mask. Got 'average'."),
        ({"optimizer": "lamb"}, "does not take this for optimizer. Expected sgd or adam. Got 'lamb'."),
        ({"lr": 0.0}, "lr must be positive. Got 0.0."),
        ({"hot": float("nan")}, "hot must be positive. Got nan."),
        ({"cold": -0.1}, "cold must be positive. Got -0.1."),
        ({"hot": 0.05}, "cold must not be above hot. Got 0.05 to 0.1."),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        OddsRecipe(**changes)
    assert text in str(caught.value)
