"""Every way of pruning that is compared: ours, simpler criteria, Torch-Pruning."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from quality_setting import GRADIENT_BATCH, PER_CLASS, SPEC, Setting, importance_of, recover
from torch_pruned import timm_of, torch_pruned

from compress.bases.analysis import RIDGE, analyse
from compress.budget import Budget, parse_budget
from compress.data.batches import training_batches
from compress.data.search_images import SearchImages, draw_search_images
from compress.model.folder import read_model, save_model, weights_sha256
from compress.model.reconstruction import reconstruct
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT
from compress.search.base import GroupSizes
from compress.search.milp import solve
from compress.search.one_shot import propose
from compress.search.tree.journal import TreeJournal
from compress.search.tree.search import search_tree
from compress.search.tree.settings import TreeEffort, TreeSettings
from runtime import encode, write_bytes

IN_BASES = "milp-bases"
OURS = ("milp", "dfbnb", "one-shot", IN_BASES)
TREE = TreeSettings(depth=6)
EFFORT = TreeEffort(GroupSizes(mlp=128, qk=16, v=16, embed=8), gradient_batch=GRADIENT_BATCH)
ROUNDS = 12
BETWEEN = 0.25
"""Epochs of recovery after every round of ``dfbnb`` but the last, which has what is left of the total."""

BASIS_DRAWS = (20_001, 20_002, 20_003)
"""Draws of images that the best bases are found from: 750 of ten classes, as many as a run takes of small images."""

TAYLOR_BATCHES, TAYLOR_BATCH = 10, 64


@dataclass(frozen=True)
class Cut:
    """A pruned model that has not had its last recovery.

    Attributes:
        model: the model.
        epochs: of recovery it has left.
        search_s: wall time of choosing.
        recover_s: wall time of recovery so far.
        rounds: this one included.
    """

    model: SlicedViT
    epochs: float
    search_s: float
    recover_s: float = 0.0
    rounds: int = 1


def choose(setting: Setting, method: str, baseline: SlicedViT, asked: str, epochs: float, folder: Path) -> Cut:
    """Prunes ``baseline`` to the budget that was asked for, with so many epochs of recovery in all."""
    budget = parse_budget(asked, baseline.plan)
    if method == "dfbnb":
        return rounds(setting, baseline, budget, epochs, folder)
    started = time.monotonic()
    model = pruned(setting, method, baseline, budget, mend=method in OURS)
    return Cut(model, epochs, time.monotonic() - started)


def pruned(setting: Setting, method: str, baseline: SlicedViT, budget: Budget, mend: bool) -> SlicedViT:
    """Prunes ``baseline`` to the budget at once, and reconstructs what is left where that is asked for."""
    if method == IN_BASES:
        return pruned_in_bases(setting, baseline, budget, mend)
    if method.startswith("torch-pruning"):
        gradients = taylor_gradients(setting, baseline)
        return torch_pruned(baseline, SPEC, budget, gradients, ranked=method == "torch-pruning-global")
    importance = importance_of(setting, method, baseline)
    select = solve if method == "milp" else propose
    kept = select(baseline.plan, importance, budget, keep_all(baseline.plan)).kept
    return mended(setting, baseline, kept, 1) if mend else slice_vit(baseline, kept)


def pruned_in_bases(setting: Setting, baseline: SlicedViT, budget: Budget, mend: bool) -> SlicedViT:
    """Prunes ``baseline`` in its best bases, which are found without labels from as many images as a run takes."""
    analysis = analyse(baseline, pixels_of(setting, BASIS_DRAWS))
    kept = solve(analysis.model.plan, analysis.importance, budget, keep_all(analysis.model.plan)).kept
    model = analysis.cut(kept)
    if not mend:
        return model
    batches = pixels_of(setting, (10_001,)).split(GRADIENT_BATCH)
    return reconstruct(model, analysis.model, kept, batches, ridge=RIDGE)


def pixels_of(setting: Setting, iterations: Sequence[int]) -> torch.Tensor:
    """Returns the images of several draws, without their labels."""
    return torch.cat([pixels for number in iterations for pixels, _ in drawn(setting, number).batches(GRADIENT_BATCH)])


def drawn(setting: Setting, iteration: int) -> SearchImages:
    """Returns augmented training images of every class, others for every iteration."""
    told = setting.data, setting.preprocessing, setting.augmentation
    return draw_search_images(*told, per_class=PER_CLASS, seed=setting.seed, iteration=iteration)


def mended(setting: Setting, whole: SlicedViT, kept: KeptUnits, number: int) -> SlicedViT:
    """Cuts a model as a run does: sliced, then reconstructed on training images of its own."""
    images = drawn(setting, 10_000 + number)
    return reconstruct(slice_vit(whole, kept), whole, kept, (pixels for pixels, _ in images.batches(GRADIENT_BATCH)))


def rounds(setting: Setting, baseline: SlicedViT, budget: Budget, epochs: float, folder: Path) -> Cut:
    """Searches, slices and recovers round after round, up to the last slice; what a round made is kept."""
    model, searched, recovered = baseline, 0.0, 0.0
    for number in range(1, ROUNDS + 1):
        place = folder / f"round-{number:02}"
        known, asked = place / "seconds.json", {"weights": weights_sha256(model), "tree": encode(TREE) | encode(EFFORT)}
        images = drawn(setting, number)
        started, journal = time.monotonic(), TreeJournal(place / "journal.jsonl", asked)
        total = budget.of(baseline.plan)
        found = search_tree(
            model, images, budget.cost, total, TREE, effort=EFFORT, budget=budget, bf16=True, journal=journal
        ).best_smaller
        assert found is not None, "the groups are larger than the model"
        seconds = json.loads(known.read_text()) if known.is_file() else {"search": time.monotonic() - started}
        write_bytes(known, json.dumps(seconds).encode())
        searched += seconds["search"]
        path = " ".join(f"{step.action}{step.block}" for step in found.path)
        print(f"seed {setting.seed} round {number}: {found.cost / total:.4f} of the MACs, {path}", flush=True)
        model = mended(setting, model, found.kept, number)
        left = epochs - BETWEEN * (number - 1)
        if budget.of(model.plan) <= budget.limit:
            return Cut(model, left, searched, recovered, number)
        if not (place / "plan.json").is_file():
            assert left > BETWEEN, "the rounds have used up all epochs of recovery"
            model, seconds["recover"] = recover(setting, model, baseline, BETWEEN, number, place)
            save_model(place, model, setting.task)
            write_bytes(known, json.dumps(seconds).encode())
        model = read_model(place)
        recovered += json.loads(known.read_text())["recover"]
    raise AssertionError(f"the budget is not met after {ROUNDS} rounds")


def taylor_gradients(setting: Setting, baseline: SlicedViT) -> dict[str, torch.Tensor]:
    """Returns gradients summed over batches, by timm's names."""
    model, count = timm_of(baseline, SPEC), TAYLOR_BATCHES * TAYLOR_BATCH
    images = np.random.default_rng([setting.seed, 19]).permutation(setting.data.train)[:count]
    for pictures, labels in training_batches(
        setting.data,
        images,
        setting.preprocessing,
        setting.augmentation,
        batch_size=TAYLOR_BATCH,
        seed=setting.seed,
        epoch=0,
    ):
        torch.nn.functional.cross_entropy(model(pictures), labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}
