"""Depth-limited depth-first branch-and-bound over pruning actions (DL-DFBnB): one iteration of the search.

Starting from a model, every node has five children, one per action; each action removes the least important group
of its kind. A node is branched only while its objective is within epsilon of the best one found.

Nodes are sliced, not masked; gradients are taken where a node is branched and nowhere else; orders of actions that
reach the same model are looked at once; and an evaluation ends as soon as the images left cannot change what it
decides. With ``exact`` every decision is that of the plain search.

Without it, the same tree is searched in another order and on fewer gradients. Children are visited by the objective
that their importance predicts, so the first path down ends at a good leaf; nodes on it are branched on that
prediction and looked at on the way back, when the leaf has settled most of them by their cost alone. Importance is
taken anew every few actions, and in between that of the units still there is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import PlanError, Progress, ShapePlan, encode, silent

from .budget import Budget, Cost
from .devices import autocast, copy_on, device_in_use, device_of
from .evaluate import evaluating
from .importance import Importance, fisher_scores, group_importance, part_of
from .oneshot import Action, GroupSizes, Removal, multiples_of, price, removals
from .search_images import SearchImages
from .sequential import Sequential
from .slicing import Kept, compose, keep_all, slice_vit, widths_of
from .tree_journal import TreeJournal, removal_of, removed_units
from .tree_outlook import Outlook, short_change
from .vit import SlicedViT

ACTIONS: tuple[Action, ...] = ("mlp", "qk", "v", "head", "embed")
"""The five actions, in the order in which an exact search visits children."""

_LEAST_STEP = 8

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
        eval_batch: images per step of an evaluation, at most; it may end after each.
        exact: decide as the plain search does: gradients at every branched node, on the whole Search Set, children in
            the order of ``ACTIONS``, every node looked at before it is branched.
        error: without ``exact``, the chance that an evaluation gives up a model that a full one would not, 0..1.
        refresh: without ``exact``, actions after which importance is taken anew.
        gradient_share: without ``exact``, share of the Search Set that importance is taken on, 0..1.

    Raises:
        PlanError: a value is out of range.
    """

    depth: int = 6
    epsilon: float = 0.005
    cost_weight: float = 1.0
    sizes: GroupSizes = field(default_factory=GroupSizes)
    gradient_batch: int = 16
    eval_batch: int = 25
    exact: bool = False
    error: float = 0.05
    refresh: int = 3
    gradient_share: float = 0.4

    def __post_init__(self) -> None:
        for name in ("depth", "gradient_batch", "eval_batch", "refresh"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1", got=getattr(self, name))
        if not 0 < self.gradient_share <= 1:
            raise PlanError("gradient_share must be more than 0 and at most 1", got=self.gradient_share)
        if not 0 <= self.error < 1:
            raise PlanError("error must be at least 0 and less than 1", got=self.error)
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


@dataclass
class Known:
    """Importance of the units of a model, taken on it or on a larger one, when it is first asked for.

    Attributes:
        age: actions since it was taken.
        take: takes it.
    """

    age: int
    take: Callable[[], Importance]
    _taken: Importance | None = None

    def importance(self) -> Importance:
        """Returns it."""
        if self._taken is None:
            self._taken = self.take()
        return self._taken

    def below(self, kept: Kept) -> Known:
        """Returns what is then known of the model that keeps ``kept`` of this one."""
        return Known(self.age + 1, lambda: part_of(self.importance(), kept))


@dataclass(frozen=True)
class SearchResult:
    """What an iteration found.

    Attributes:
        best: the node with the highest objective, the first of equals.
        best_smaller: the same among those below the root; None where nothing can go.
        root: the model that was started from; looked at no further than it took to know whether it is the best.
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
    tree.search(model)
    progress("search", tree.used, tree.used, tree.note(tree.root))
    return SearchResult(tree.best, tree.best_smaller, tree.root, tree.nodes, tree.branched, tree.repeats, tree.used)


class Tree:
    """What is known while one tree is searched."""

    root: Node
    best: Node
    best_smaller: Node | None = None
    diving: bool = False

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
        self.hard = 0
        self.nodes = self.branched = self.repeats = self.used = 0
        self.outlook = Outlook(settings.depth, len(ACTIONS), self.gradient_work())

    def search(self, model: SlicedViT) -> None:
        """Searches everything under ``model``."""
        everything, known = keep_all(model.plan), self.known(model)
        if self.settings.exact or self.meets(model.plan):
            self.look(model, everything, ())
            if not self.meets(model.plan):
                self.visit(model, everything, (), known)
        else:
            self.diving = True
            self.root = self.unseen(model, everything, ())
            self.visit(model, everything, (), known)
            self.look(model, everything, (), passed=True)

    def visit(self, model: SlicedViT, kept: Kept, path: tuple[Step, ...], known: Known) -> None:
        """Branches a node, whose sliced model is ``model``, and everything below it that is worth it."""
        self.branched += 1
        children, depth = self.children(model, known), len(path) + 1
        self.outlook.opened(depth, len(children))
        for removal in children:
            left = compose(kept, removal.kept)
            there = (*path, Step(removal.action, removal.block))
            if left in self.seen:
                self.repeats += 1
                self.outlook.repeated(depth)
                self.tell("repeat", {"path": encode(there)})
                continue
            smaller = slice_vit(model, removal.kept)
            below = self.known(smaller) if known.age + 1 >= self.refresh else known.below(removal.kept)
            if self.diving and not self.ends(smaller.plan, there):
                self.seen.add(left)
                self.visit(smaller, left, there, below)
                self.look(smaller, left, there, passed=True)
            else:
                _, verdict = self.look(smaller, left, there)
                if verdict == "branched":
                    self.visit(smaller, left, there, below)

    @property
    def refresh(self) -> int:
        """Actions after which importance is taken anew."""
        return 1 if self.settings.exact else self.settings.refresh

    def known(self, model: SlicedViT) -> Known:
        """Returns the importance of the units of ``model``, to be taken when it is first needed."""

        def take() -> Importance:
            chosen = self.images.spread(self.gradient_work() // GRADIENT_COST)
            scores = fisher_scores(model, chosen.batches(self.settings.gradient_batch), bf16=self.bf16)
            return group_importance(model.plan, scores)

        return Known(0, take)

    def gradient_work(self) -> int:
        """Returns the forward-equivalents of taking importance once."""
        share = 1.0 if self.settings.exact else self.settings.gradient_share
        return GRADIENT_COST * max(1, round(share * len(self.images)))

    def ends(self, plan: ShapePlan, path: tuple[Step, ...]) -> bool:
        """Tells whether a path ends here: it is as deep as it may be, or the budget is met."""
        return len(path) == self.settings.depth or self.meets(plan)

    def children(self, model: SlicedViT, known: Known) -> list[Removal]:
        """Returns the least important group of each kind.

        Where the cost is uneven, the one that loses the least importance for the cost it saves.
        """
        self.used += 0 if known.age else self.gradient_work()
        entry = self.journal.replay("branch") if self.journal else None
        if entry is not None:
            return [removal_of(model.plan, *child) for child in entry["children"]]
        importance = known.importance()
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
        if not self.settings.exact:
            chosen.sort(key=lambda option: -self.predicted_gain(model, option))
        children = [[r.action, r.block, r.importance, removed_units(model.plan, r)] for r in chosen]
        self.record({"op": "branch", "images": 0 if known.age else self.gradient_work(), "children": children})
        return chosen

    def predicted_gain(self, model: SlicedViT, option: Removal) -> float:
        """Returns by how much an action is expected to lift the objective, bits.

        To second order the loss rises by half of what the squared gradients of single images sum up to, and the
        importance holds those of batches of B, which are B times smaller: ``B / 2 * I`` nats.
        """
        saved = math.log2(self.cost.of(model.plan) / self.cost.of(widths_of(model.plan, option.kept)))
        lost = self.settings.gradient_batch / 2 * option.importance / math.log(2)
        return self.settings.cost_weight * saved - lost

    def unseen(self, model: SlicedViT, kept: Kept, path: tuple[Step, ...]) -> Node:
        """Returns a node of which nothing is known but its cost."""
        count, cost = len(self.images), self.cost.of(model.plan)
        value = objective(count, count, cost, self.total, self.settings.cost_weight)
        return Node(path, kept, model.plan, cost, count, False, value)

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
        self,
        model: SlicedViT,
        kept: Kept,
        path: tuple[Step, ...],
        needed: float | None = None,
        *,
        passed: bool = False,
    ) -> tuple[Node, str]:
        """Evaluates a model, and says what becomes of it: ``branched``, ``bounded``, ``leaf``, ``met`` or ``passed``.

        Args:
            model: the sliced model.
            kept: what it keeps of the root.
            path: the actions that lead to it.
            needed: an objective that is of no interest unless it is exceeded; by default what the tree asks.
            passed: whether what is below it was searched already.
        """
        cost, count, weight = self.cost.of(model.plan), len(self.images), self.settings.cost_weight
        self.diving = False  # a first leaf is known, or a path that ended before
        end = passed or self.ends(model.plan, path)
        best = getattr(self, "best", None)
        if needed is None:
            needed = -math.inf if best is None else best.objective - (0.0 if end else self.settings.epsilon)
            if self.budget is not None:  # something must go, even where the root is the best
                needed = min(needed, -math.inf if self.best_smaller is None else self.best_smaller.objective)
        entry = self.journal.replay("look") if self.journal else None
        seen = self.evaluate(model, cost, needed) if entry is None else Seen.of(entry)
        value = objective(seen.correct, count, cost, self.total, weight)
        node = Node(path, kept, model.plan, cost, seen.correct, seen.complete, value)
        if not path:
            self.root = node
        if seen.complete and (best is None or value > best.objective):
            self.best = node
            self.arrange(seen)
        if path and seen.complete and (self.best_smaller is None or value > self.best_smaller.objective):
            self.best_smaller = node
        self.seen.add(kept)
        self.nodes += 1
        self.used += seen.images
        worth = seen.complete and value > self.best.objective - self.settings.epsilon
        verdict = (
            "passed"
            if passed
            else ("met" if len(path) < self.settings.depth else "leaf")
            if end
            else "branched"
            if worth
            else "bounded"
        )
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

    def evaluate(self, model: SlicedViT, cost: int, needed: float) -> Seen:
        """Counts right answers, no further than it takes to know whether the objective can exceed ``needed``.

        Images that the best model so far has wrong come first; after them every further mistake lowers what can
        still be reached. That bound is exact. Without ``exact``, those first images come in random order, and it
        also ends when so many mistakes among those seen leave hardly a chance that the rest are few enough.
        """
        count, weight = len(self.images), self.settings.cost_weight
        model = copy_on(model, device_in_use())
        enough = (c for c in range(count + 1) if objective(c, count, cost, self.total, weight) > needed)
        least = 0 if needed == -math.inf else next(enough, count + 1)
        test = Sequential(self.hard, count - least, 0.0 if self.settings.exact else self.settings.error)
        margins = np.zeros(count, np.float32)
        reachable, done = count, 0
        while done < count and reachable >= least:
            # no fewer than the mistakes it takes
            step = test.next_step(done) or max(_LEAST_STEP, reachable - least + 1)
            positions = self.order[done : done + min(step, self.settings.eval_batch)]
            right, margins[positions] = self.answers(model, positions)
            reachable -= int((~right).sum())
            done += len(positions)
            if test.settled(done, count - reachable):
                reachable = least - 1
        complete = done == count
        order = np.lexsort((np.arange(count), margins)).tolist() if complete else None
        return Seen(reachable, complete, done, order)

    def arrange(self, seen: Seen) -> None:
        """Puts the images that a model has wrong first, for the evaluations to come."""
        order, self.hard = np.array(seen.order, np.int64), len(self.images) - seen.correct
        if not self.settings.exact:
            order[: self.hard] = np.random.default_rng(0).permutation(order[: self.hard])
        self.order = order

    def answers(
        self, model: SlicedViT, positions: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Returns, for images at ``positions``, whether ``model`` is right, and by how much its logit leads."""
        pictures, labels = self.images.at(positions)
        device = device_of(model)
        with evaluating(model), autocast(device, self.bf16):
            logits = model(pictures.to(device)).float().cpu()
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
class Seen:
    """The outcome of an evaluation: right answers (at most, if not complete), and images by margin, hardest first."""

    correct: int
    complete: bool
    images: int
    order: list[int] | None

    def as_json(self) -> dict[str, Any]:
        """Returns what a journal keeps of it."""
        return {"correct": self.correct, "complete": self.complete, "images": self.images}

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Seen:
        """Returns what a journal kept."""
        return cls(entry["correct"], entry["complete"], entry["images"], entry["order"])
