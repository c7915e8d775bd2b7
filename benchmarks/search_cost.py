"""What one iteration of the tree search costs, beside what the plain rule costs.

    python benchmarks/search_cost.py [--model runs/benchmarks/compress-quality/seed-0/baseline] [--per-class 25]

Searches one tree with the published settings (depth 6, epsilon 0.005, lambda 1, cost in parameters) under a trained
model, such as a baseline of ``compress_quality.py``, as it is searched by default and with ``exact``, and counts
images: forward-equivalents, where a gradient counts three.

The plain rule visits every order of actions anew, evaluates every node on every image, and takes gradients at every
node it branches. Its count needs no third search: the journal of the exact one holds what every model the plain rule
meets is worth and which children it has, so the rule is walked over the journal, counting every visit. An evaluation
that ended early is recorded as a bound below what it would have had to exceed, then and so ever after, so the walk
decides as if it had been whole.

Prints a Markdown table. Times are of a machine that may be busy: indications.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from compress.budget import COUNTS
from compress.data.augment import augmentation_for
from compress.data.load import load_data
from compress.data.search_images import SearchImages, draw_search_images
from compress.evaluate import evaluating
from compress.importance.scores import fisher_scores
from compress.model.folder import read_model, read_task, weights_sha256
from compress.model.slicing import KeptUnits, compose, keep_all, plan_of
from compress.model.vit import SlicedViT
from compress.search.tree.journal import TreeJournal, removal_of
from compress.search.tree.nodes import SearchResult
from compress.search.tree.search import search_tree
from compress.search.tree.settings import TreeEffort, TreeSettings
from compress.train.fit import bf16_helps
from runtime import ShapePlan, encode, params, write_bytes

GRADIENT_COST = 3


@dataclass(frozen=True)
class Known:
    """What a journal says of one model.

    Attributes:
        objective: exact, or, where the evaluation ended early, a bound that is already too low.
        complete: whether it is exact.
        images: that the evaluation looked at.
        block: the first block that its last action changed; 0 where that was all of them, or nothing.
        children: what its actions leave, in the order they are visited; None where it was not branched.
    """

    objective: float
    complete: bool
    images: int
    block: int
    children: tuple[KeptUnits, ...] | None


@dataclass
class Walk:
    """The plain rule, walked over known models.

    Attributes:
        known: every model it may meet.
        depth: most actions on one path.
        epsilon: a node this much worse than the best is still branched.
        best: the highest objective met.
        visits: nodes evaluated, a model as often as it is met.
        branched: of these, how many were branched.
        evaluated: models met, each once.
        opened: models branched, each once.
    """

    known: Mapping[KeptUnits, Known]
    depth: int
    epsilon: float
    best: float = -math.inf
    visits: int = 0
    branched: int = 0
    evaluated: set[KeptUnits] = field(default_factory=set)
    opened: set[KeptUnits] = field(default_factory=set)

    def visit(self, kept: KeptUnits, level: int = 0) -> None:
        """Evaluates a model and, where it is worth it, branches it."""
        self.visits += 1
        self.evaluated.add(kept)
        known = self.known[kept]
        if known.complete and known.objective > self.best:
            self.best = known.objective
        worth = known.complete and known.objective > self.best - self.epsilon
        if level == self.depth or not worth:
            return
        assert known.children is not None, "the search has not branched a model that the plain rule branches"
        self.branched += 1
        self.opened.add(kept)
        for child in known.children:
            self.visit(child, level + 1)

    def cost(self, images: int) -> int:
        """Returns forward-equivalents of all visits on ``images`` images."""
        return (self.visits + GRADIENT_COST * self.branched) * images


def main() -> None:
    """Searches, walks, checks and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/benchmarks/compress-quality/seed-0/baseline"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/search-cost"), help="where the journal goes")
    parser.add_argument("--per-class", type=int, default=25)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--epsilon", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0, help="of the images; they stand for an iteration's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="numbers of TreeEffort")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, task = read_model(options.model), read_task(options.model)
    data = load_data(task.data, seed=task.split_seed, train_limit=task.train_limit)
    augmentation, per_class = augmentation_for(data), options.per_class
    images = draw_search_images(
        data, task.preprocessing, augmentation, per_class=per_class, seed=options.seed, iteration=0
    )
    told = {name: json.loads(value) for name, value in (pair.split("=") for pair in options.set)}
    default, effort = TreeSettings(depth=options.depth, epsilon=options.epsilon), TreeEffort(**told)
    exact = replace(default, exact=True)
    by_default, exactly = (searched(model, images, settings, effort, options.out) for settings in (default, exact))
    known, root = models_of(read_lines(exactly.journal), model.plan)
    walk = Walk(known, exact.depth, exact.epsilon)
    walk.visit(root)
    print(report(by_default, exactly, walk, len(images), len(model.plan.blocks), pace(model, images, effort)))


@dataclass(frozen=True)
class Searched:
    """A search that was made.

    Attributes:
        found: its outcome.
        journal: what it did.
        seconds: wall time; None where it was stopped in between.
    """

    found: SearchResult
    journal: Path
    seconds: float | None


def searched(model: SlicedViT, images: SearchImages, settings: TreeSettings, effort: TreeEffort, out: Path) -> Searched:
    """Searches one tree, or takes the outcome from its journal."""
    bf16, total = bf16_helps(model.plan), params(model.plan)
    pixels = hashlib.sha256(images.pixels.tobytes()).hexdigest()
    asked = {
        "weights_sha256": weights_sha256(model),
        "tree": encode(settings) | encode(effort),
        "images": pixels,
        "bf16": bf16,
    }
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    path, clock, started = out / f"{name}.jsonl", out / f"{name}.seconds", time.monotonic()
    fresh, journal = not path.is_file(), TreeJournal(path, asked)
    found = search_tree(model, images, COUNTS["params"], total, settings, effort=effort, bf16=bf16, journal=journal)
    if fresh:
        write_bytes(clock, f"{time.monotonic() - started:.1f}".encode())
    return Searched(found, path, float(clock.read_text()) if clock.is_file() else None)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the operations of a finished search."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][1:]


def models_of(lines: Iterable[Mapping[str, Any]], plan: ShapePlan) -> tuple[dict[KeptUnits, Known], KeptUnits]:
    """Returns every model of a finished search, by what it keeps of ``plan``, and the root."""
    known: dict[KeptUnits, Known] = {}
    root, entries = keep_all(plan), iter(lines)
    _read(next(entries), root, entries, plan, known)
    return known, root


def _read(
    look: Mapping[str, Any],
    kept: KeptUnits,
    entries: Iterator[Mapping[str, Any]],
    plan: ShapePlan,
    known: dict[KeptUnits, Known],
) -> None:
    """Takes in one looked-at model and, from the lines after its own, all below it."""
    children = None
    if look["verdict"] == "branched":
        own, branch = plan_of(plan, kept), next(entries)
        assert branch["op"] == "branch"
        children = tuple(compose(kept, removal_of(own, *child).kept) for child in branch["children"])
        for child in children:
            entry = next(entries)
            if entry["op"] == "look":
                _read(entry, child, entries, plan, known)
    value = -math.inf if look["objective"] is None else look["objective"]
    block = max(0, look["path"][-1]["block"]) if look["path"] else 0
    known[kept] = Known(value, look["complete"], look["images"], block, children)


def pace(model: SlicedViT, images: SearchImages, effort: TreeEffort) -> tuple[float, float]:
    """Returns seconds of one whole evaluation and of one gradient pass of ``model``: the better of two."""
    evaluations, gradients, bf16 = [], [], bf16_helps(model.plan)
    for _ in range(2):
        started = time.monotonic()
        with evaluating(model), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for pictures, _labels in images.batches(effort.eval_batch):
                model(pictures)
        evaluations.append(time.monotonic() - started)
        started = time.monotonic()
        fisher_scores(model, images.batches(effort.gradient_batch), bf16=bf16)
        gradients.append(time.monotonic() - started)
    return min(evaluations), min(gradients)


def report(
    by_default: Searched, exactly: Searched, walk: Walk, images: int, blocks: int, pace: tuple[float, float]
) -> str:
    """Returns the table, and what stands behind it."""
    plain, (evaluation, gradient) = walk.cost(images), pace
    once = exactly.found.nodes * images + GRADIENT_COST * exactly.found.branched * images
    estimate = walk.visits * evaluation + walk.branched * gradient
    rows = [
        ("plain rule", walk.visits, walk.visits * images, plain, walk.best, f"about {estimate:.0f} s"),
        ("each model once", exactly.found.nodes, exactly.found.nodes * images, once, walk.best, ""),
    ]
    for name, done in (("`search_tree`, exact", exactly), ("`search_tree`", by_default)):
        seen = sum(line["images"] for line in read_lines(done.journal) if line["op"] == "look")
        took = "" if done.seconds is None else f"{done.seconds:.0f} s"
        rows.append((name, done.found.nodes, seen, done.found.images, done.found.best.objective, took))
    lines = [
        "| | nodes evaluated | images in evaluations | in gradients, x 3 | total | less by | objective | time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, nodes, seen, total, best, took in rows:
        counts = f"{nodes:,} | {seen:,} | {total - seen:,} | {total:,} | {plain / total:.1f}x"
        lines.append(f"| {name} | {counts} | {best:.4f} | {took} |")
    whole, early = (sum(model.complete is complete for model in walk.known.values()) for complete in (True, False))
    paths = [" ".join(f"{s.action}{s.block}" for s in done.found.best.path) for done in (exactly, by_default)]
    lines += [
        "",
        f"{images} images. Root {exactly.found.root.objective:.4f}; best of the plain rule and of the exact search: "
        f"{paths[0] or 'the root'}; by default: {paths[1] or 'the root'}.",
        f"The time of the plain rule is {walk.visits:,} evaluations of {evaluation:.2f} s and {walk.branched:,} "
        f"gradient passes of {gradient:.2f} s.",
        f"Evaluations of the exact search: {whole:,} whole, {early:,} ended early. Blocks before the first one changed "
        f"compute what they computed in the parent: without them its images would be {reused(walk.known, blocks):,}.",
    ]
    return "\n".join(lines)


def reused(known: Mapping[KeptUnits, Known], blocks: int) -> int:
    """Returns forward-equivalents of the evaluations, were the blocks before the first changed one not run again."""
    return round(sum(model.images * (blocks - model.block) / blocks for model in known.values()))


if __name__ == "__main__":
    main()
