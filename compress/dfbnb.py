"""Depth-limited depth-first branch-and-bound over pruning actions (DL-DFBnB): one iteration of the search.

Starting from a model, every node has five children, one per action; each action removes the least important group
of its kind. A node is branched only while its objective is within epsilon of the best one found.

The decisions are those of the plain search, for far less work: nodes are sliced, not masked; gradients are taken
where a node is branched and nowhere else; orders of actions that reach the same model are looked at once; and an
evaluation ends as soon as the images left cannot change what it decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runtime import PlanError, Progress, ShapePlan, encode, silent

from .budget import Budget, Cost
from .evaluate import evaluating
from .importance import fisher_scores, group_importance
from .oneshot import Action, GroupSizes, Removal, multiples_of, price, removals
from .search_images import SearchImages
from .slicing import Kept, compose, keep_all, slice_vit, widths_of
from .tree_journal import TreeJournal, removal_of, removed_units
from .tree_outlook import Outlook, short_change
from .vit import SlicedViT

ACTIONS: tuple[Action, ...] = ("mlp", "qk", "v", "head", "embed")
"""The five actions, in the order in which children are visited."""

GRADIENT_COST = 3
"""Forward-equivalents of one image in a gradient pass: forward, and a backward of twice its work."""


@dataclass(frozen=True)
class TreeSettings:
    """How a tree is searched; the defaults are the published ones.

    Attributes:
        depth: most actions on one path.
        epsilon: a node this much worse than the best, in the objective's unit (bits), is still branched.
        cost_weight: lambda of the objective.
        sizes: how much one action removes.
        gradient_batch: images per gradient of the importance.
        eval_batch: images per step of an evaluation; it may end after each.

    Raises:
        PlanError: a value is out of range.
    """

    depth: int = 6
    epsilon: float = 0.005
    cost_weight: float = 1.0
    sizes: GroupSizes = field(default_factory=GroupSizes)
    gradient_batch: int = 16
    eval_batch: int = 25

    def __post_init__(self) -> None:
        for name in ("depth", "gradient_batch", "eval_batch"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1", got=getattr(self, name))
        for name in ("epsilon", "cost_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PlanError(f"{name} must not be negative", got=getattr(self, name))


@dataclass(frozen=True)
class Step:
    """One action on the path to a node: its kind, and the block it was taken in (-1: the whole model)."""

    action: Action
    block: int


@dataclass(frozen=True)
class Node:
    """A model in the tree.

    Attributes:
        path: the actions that lead to it.
        kept: what is left, as indices into the model that the search started from.
        plan: its shape.
        cost: of that plan.
        correct: images of the Search Set it has right; where ``complete`` is false, at most so many.
        complete: whether every image was looked at.
        objective: ``log2(accuracy) - cost_weight * log2(cost / total)``, of ``correct``.
    """

    path: tuple[Step, ...]
    kept: Kept
    plan: ShapePlan
    cost: int
    correct: int
    complete: bool
    objective: float


@dataclass(frozen=True)
class SearchResult:
    """What an iteration found.

    Attributes:
        best: the node with the highest objective, the first of equals.
        best_smaller: the same among those below the root; None where nothing can go.
        root: the model that was started from.
        nodes: models looked at.
        branched: of these, how many were branched.
        repeats: visits that another order of the same actions made unnecessary.
        images: forward-equivalents of all evaluations and gradients.
    """

    best: Node
    best_smaller: Node | None
    root: Node
    nodes: int
    branched: int
    repeats: int
    images: int


def objective(correct: int, images: int, cost: int, total: int, cost_weight: float) -> float:
    """Returns ``log2(correct / images) - cost_weight * log2(cost / total)``; minus infinity with nothing right."""
    if correct == 0:
        return -math.inf
    return math.log2(correct / images) - cost_weight * math.log2(cost / total)


def search_tree(
    model: SlicedViT,
    images: SearchImages,
    cost: Cost,
    total: int,
    settings: TreeSettings | None = None,
    *,
    budget: Budget | None = None,
    bf16: bool = False,
    journal: TreeJournal | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Searches the tree of pruning actions under ``model``.

    Args:
        model: where the tree starts; left as it is.
        images: the Search Set.
        cost: what the objective counts.
        total: what the unpruned model of the first iteration costs.
        settings: depth, tolerance, group sizes.
        budget: where a path ends, and which is not undershot by more than 2 % while another action is left.
        bf16: evaluate and differentiate under bfloat16 autocast.
        journal: where operations are recorded and replayed from.
        progress: told of every node looked at: forward-equivalents done, and what the whole search may take.

    Raises:
        ArtifactError: the journal is of another search.
        StorageError: the journal cannot be written.
    """
    tree = Tree(images, cost, total, settings or TreeSettings(), budget, bf16, journal, progress)
    root, _ = tree.look(model, keep_all(model.plan), ())
    if not tree.meets(root.plan):
        tree.visit(model, root)
    progress("search", tree.used, tree.used, tree.note(root))
    return SearchResult(tree.best, tree.best_smaller, root, tree.nodes, tree.branched, tree.repeats, tree.used)


class Tree:
    """What is known while one tree is searched."""

    root: Node
    best: Node
    best_smaller: Node | None = None

    def __init__(
        self,
        images: SearchImages,
        cost: Cost,
        total: int,
        settings: TreeSettings,
        budget: Budget | None,
        bf16: bool,
        journal: TreeJournal | None,
        progress: Progress,
    ) -> None:
        self.images, self.cost, self.total, self.settings, self.budget = images, cost, total, settings, budget
        self.bf16, self.journal, self.progress = bf16, journal, progress
        self.seen: set[Kept] = set()
        self.order: npt.NDArray[np.int64] = np.arange(len(images))
        self.nodes = self.branched = self.repeats = self.used = 0
        self.outlook = Outlook(settings.depth, len(ACTIONS), GRADIENT_COST * len(images))

    def visit(self, model: SlicedViT, node: Node) -> None:
        """Branches ``node``, whose sliced model is ``model``, and everything below it that is worth it."""
        self.branched += 1
        children, depth = self.children(model), len(node.path) + 1
        self.outlook.opened(depth, len(children))
        for removal in children:
            kept = compose(node.kept, removal.kept)
            path = (*node.path, Step(removal.action, removal.block))
            if kept in self.seen:
                self.repeats += 1
                self.outlook.repeated(depth)
                self.tell("repeat", {"path": encode(path)})
                continue
            smaller = slice_vit(model, removal.kept)
            child, verdict = self.look(smaller, kept, path)
            if verdict == "branched":
                self.visit(smaller, child)

    def children(self, model: SlicedViT) -> list[Removal]:
        """Returns the least important group of each kind, importance taken anew on this model.

        Where the cost is uneven, the one that loses the least importance for the cost it saves.
        """
        self.used += GRADIENT_COST * len(self.images)
        entry = self.journal.replay("branch") if self.journal else None
        if entry is not None:
            return [removal_of(model.plan, *child) for child in entry["children"]]
        scores = fisher_scores(model, self.images.batches(self.settings.gradient_batch), bf16=self.bf16)
        importance = group_importance(model.plan, scores)
        multiples = multiples_of(self.cost)
        everything = keep_all(model.plan)
        options = self.legal(model, removals(model.plan, importance, everything, self.settings.sizes, multiples))
        before = self.cost.of(model.plan)

        def rank(option: Removal) -> float:
            if not self.cost.uneven:
                return option.importance
            return price(option.importance, before - self.cost.of(widths_of(model.plan, option.kept)))

        chosen = []
        for action in ACTIONS:
            own = [option for option in options if option.action == action]
            if own:
                chosen.append(min(own, key=rank))
        children = [[r.action, r.block, r.importance, removed_units(model.plan, r)] for r in chosen]
        self.record({"op": "branch", "children": children})
        return chosen

    def meets(self, plan: ShapePlan) -> bool:
        """Tells whether ``plan`` is within the budget, where there is one."""
        return self.budget is not None and self.budget.of(plan) <= self.budget.limit

    def legal(self, model: SlicedViT, options: Iterable[Removal]) -> list[Removal]:
        """Returns the options that do not undershoot the budget, or, where all do, all."""
        every = list(options)
        if self.budget is None:
            return every
        good = [o for o in every if self.budget.of(widths_of(model.plan, o.kept)) >= self.budget.floor]
        return good or every

    def look(
        self, model: SlicedViT, kept: Kept, path: tuple[Step, ...], needed: float | None = None
    ) -> tuple[Node, str]:
        """Evaluates a model, and says what becomes of it: ``branched``, ``bounded``, ``leaf`` or ``met``.

        Args:
            model: the sliced model.
            kept: what it keeps of the root.
            path: the actions that lead to it.
            needed: an objective that is of no interest unless it is exceeded; by default what the tree asks.
        """
        cost, count, weight = self.cost.of(model.plan), len(self.images), self.settings.cost_weight
        end = len(path) == self.settings.depth or self.meets(model.plan)
        if needed is None:
            needed = -math.inf if not path else self.best.objective - (0.0 if end else self.settings.epsilon)
            if self.budget is not None:  # something must go, even where the root is the best
                needed = min(needed, -math.inf if self.best_smaller is None else self.best_smaller.objective)
        entry = self.journal.replay("look") if self.journal else None
        seen = self.evaluate(model, cost, needed) if entry is None else _Seen.of(entry)
        value = objective(seen.correct, count, cost, self.total, weight)
        node = Node(path, kept, model.plan, cost, seen.correct, seen.complete, value)
        if not path:
            self.root = node
        if seen.complete and (not path or value > self.best.objective):
            self.best, self.order = node, np.array(seen.order, np.int64)
        if path and seen.complete and (self.best_smaller is None or value > self.best_smaller.objective):
            self.best_smaller = node
        self.seen.add(kept)
        self.nodes += 1
        self.used += seen.images
        worth = seen.complete and value > self.best.objective - self.settings.epsilon
        verdict = ("met" if len(path) < self.settings.depth else "leaf") if end else "branched" if worth else "bounded"
        if entry is None:
            told = {"path": encode(path), "cost": cost, "objective": value if math.isfinite(value) else None}
            best = seen.order if node is self.best else None
            self.record({"op": "look", **told, **seen.as_json(), "order": best, "verdict": verdict})
        opens = verdict == "branched" or not (path or end)
        self.outlook.looked(len(path), seen.images, branched=opens, improved=node is self.best)
        self.progress("search", self.used, self.outlook.total(self.used), self.note(node))
        return node, verdict

    def note(self, node: Node) -> str:
        """Returns where the search is, and the plan it would choose now, for people."""
        chosen = self.best_smaller or self.best
        right, share = chosen.correct / len(self.images), chosen.cost / self.total
        return (
            f"best {chosen.objective:.4f}: top-1 {100 * right:.1f} %, cost {100 * share:.1f} %, "
            f"{short_change(self.root.plan, chosen.plan)}; node {self.nodes}, depth {len(node.path)}"
        )

    def evaluate(self, model: SlicedViT, cost: int, needed: float) -> _Seen:
        """Counts right answers, no further than it takes to know whether the objective can exceed ``needed``.

        Images that the best model so far has wrong come first; after them every further mistake lowers what can
        still be reached, so the bound is exact and no decision differs from that of a full evaluation.
        """
        count, weight = len(self.images), self.settings.cost_weight
        least = next((c for c in range(count + 1) if objective(c, count, cost, self.total, weight) > needed), count + 1)
        margins = np.zeros(count, np.float32)
        reachable, done = count, 0
        while done < count and reachable >= least:
            positions = self.order[done : done + self.settings.eval_batch]
            right, margins[positions] = self.answers(model, positions)
            reachable -= int((~right).sum())
            done += len(positions)
        complete = done == count
        order = np.lexsort((np.arange(count), margins)).tolist() if complete else None
        return _Seen(reachable, complete, done, order)

    def answers(
        self, model: SlicedViT, positions: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Returns, for images at ``positions``, whether ``model`` is right, and by how much its logit leads."""
        pictures, labels = self.images.at(positions)
        with evaluating(model), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = model(pictures).float()
        own = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
        right = (logits.argmax(dim=1) == labels).numpy()
        return right, (own - others).numpy()

    def tell(self, operation: str, details: dict[str, Any]) -> None:
        """Records an operation that takes no work, unless it is recorded."""
        if self.journal is not None and self.journal.replay(operation) is None:
            self.journal.record({"op": operation, **details})

    def record(self, entry: dict[str, Any]) -> None:
        """Records an operation, where there is a journal."""
        if self.journal is not None:
            self.journal.record(entry)


@dataclass(frozen=True)
class _Seen:
    """The outcome of an evaluation: right answers (at most, if not complete), and images by margin, hardest first."""

    correct: int
    complete: bool
    images: int
    order: list[int] | None

    def as_json(self) -> dict[str, Any]:
        return {"correct": self.correct, "complete": self.complete, "images": self.images}

    @classmethod
    def of(cls, entry: dict[str, Any]) -> _Seen:
        return cls(entry["correct"], entry["complete"], entry["images"], entry["order"])
