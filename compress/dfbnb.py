"""Depth-limited depth-first branch-and-bound over pruning actions (DL-DFBnB): one iteration of the search.

Starting from a model, every node has five children, one per action; each action removes the least important group
of its kind. A node is branched only while its objective is within epsilon of the best one found.

The decisions are those of the plain search, for far less work: nodes are sliced, not masked; gradients are taken
where a node is branched and nowhere else; orders of actions that reach the same model are looked at once; and an
evaluation ends as soon as the images left cannot change what it decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from runtime import PlanError, Progress, ShapePlan, silent

from .evaluate import evaluating
from .importance import fisher_scores, group_importance
from .oneshot import Action, GroupSizes, Removal, removals
from .search_images import SearchImages
from .slicing import Kept, compose, keep_all, slice_vit
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
        root: the model that was started from.
        nodes: models looked at.
        branched: of these, how many were branched.
        repeats: visits that another order of the same actions made unnecessary.
        images: forward-equivalents of all evaluations and gradients.
    """

    best: Node
    root: Node
    nodes: int
    branched: int
    repeats: int
    images: int


Watcher = Callable[[Node, str], None]
"""Told of every node and what became of it: ``branched``, ``bounded``, ``leaf`` or ``repeat``."""


def objective(correct: int, images: int, cost: int, total: int, cost_weight: float) -> float:
    """Returns ``log2(correct / images) - cost_weight * log2(cost / total)``; minus infinity with nothing right."""
    if correct == 0:
        return -math.inf
    return math.log2(correct / images) - cost_weight * math.log2(cost / total)


def search_tree(
    model: SlicedViT,
    images: SearchImages,
    cost: Callable[[ShapePlan], int],
    total: int,
    settings: TreeSettings | None = None,
    *,
    bf16: bool = False,
    watch: Watcher | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Searches the tree of pruning actions under ``model``.

    Args:
        model: where the tree starts; left as it is.
        images: the Search Set.
        cost: what a plan costs.
        total: what the unpruned model of the first iteration costs.
        settings: depth, tolerance, group sizes.
        bf16: evaluate and differentiate under bfloat16 autocast.
        watch: told of every node.
        progress: told of every node looked at.
    """
    tree = _Tree(images, cost, total, settings or TreeSettings(), bf16, watch, progress)
    root = tree.look(model, keep_all(model.plan), (), -math.inf)
    tree.best, tree.root = root, root
    tree.visit(model, root)
    return SearchResult(tree.best, root, tree.nodes, tree.branched, tree.repeats, tree.used)


class _Tree:
    """What is known while one tree is searched."""

    best: Node
    root: Node

    def __init__(
        self,
        images: SearchImages,
        cost: Callable[[ShapePlan], int],
        total: int,
        settings: TreeSettings,
        bf16: bool,
        watch: Watcher | None,
        progress: Progress,
    ) -> None:
        self.images, self.cost, self.total, self.settings = images, cost, total, settings
        self.bf16, self.progress = bf16, progress
        self.watch: Watcher = watch or (lambda node, verdict: None)
        self.seen: dict[Kept, Node] = {}
        self.order: npt.NDArray[np.int64] = np.arange(len(images))
        self.nodes = self.branched = self.repeats = self.used = 0

    def visit(self, model: SlicedViT, node: Node) -> None:
        """Branches ``node``, whose sliced model is ``model``, and everything below it that is worth it."""
        self.branched += 1
        self.watch(node, "branched")
        for removal in self.children(model):
            kept = compose(node.kept, removal.kept)
            path = (*node.path, Step(removal.action, removal.block))
            if kept in self.seen:
                self.repeats += 1
                self.watch(self.seen[kept], "repeat")
                continue
            leaf = len(path) == self.settings.depth
            needed = self.best.objective - (0.0 if leaf else self.settings.epsilon)
            smaller = slice_vit(model, removal.kept)
            child = self.look(smaller, kept, path, needed)
            if child.objective > self.best.objective:
                self.best = child
            if leaf:
                self.watch(child, "leaf")
            elif child.complete and child.objective > self.best.objective - self.settings.epsilon:
                self.visit(smaller, child)
            else:
                self.watch(child, "bounded")

    def children(self, model: SlicedViT) -> Iterator[Removal]:
        """Yields the least important group of each kind, importance taken anew on this model."""
        size = self.settings.gradient_batch
        scores = fisher_scores(model, self.images.batches(size), bf16=self.bf16)
        self.used += GRADIENT_COST * len(self.images)
        importance = group_importance(model.plan, scores)
        options = list(removals(model.plan, importance, keep_all(model.plan), self.settings.sizes))
        for action in ACTIONS:
            own = [option for option in options if option.action == action]
            if own:
                yield min(own, key=lambda option: option.importance)

    def look(self, model: SlicedViT, kept: Kept, path: tuple[Step, ...], needed: float) -> Node:
        """Evaluates a model, but no further than it takes to know whether its objective exceeds ``needed``.

        Images that the best model so far has wrong come first; after them every further mistake lowers what can
        still be reached, so the bound is exact and no decision differs from that of a full evaluation.
        """
        cost, count = self.cost(model.plan), len(self.images)
        weight = self.settings.cost_weight
        least = next((c for c in range(count + 1) if objective(c, count, cost, self.total, weight) > needed), count + 1)
        right = np.zeros(count, np.bool_)
        margins = np.zeros(count, np.float32)
        reachable, done = count, 0
        while done < count and reachable >= least:
            positions = self.order[done : done + self.settings.eval_batch]
            right[positions], margins[positions] = self.answers(model, positions)
            done += len(positions)
            reachable = count - int((~right[self.order[:done]]).sum())
        complete = done == count
        node = Node(
            path, kept, model.plan, cost, reachable, complete, objective(reachable, count, cost, self.total, weight)
        )
        self.used += done
        self.nodes += 1
        self.seen[kept] = node
        self.progress("search", self.nodes, self.nodes, f"depth {len(path)}, objective {node.objective:.4f}")
        if complete and (not path or node.objective > self.best.objective):
            self.order = np.lexsort((np.arange(count), margins))
        return node

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
