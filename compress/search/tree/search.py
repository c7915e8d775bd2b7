"""Depth-limited depth-first branch-and-bound over pruning actions (DL-DFBnB): one iteration of the search.

Every node has five children, one per action; each action removes the least important group of its kind. A node is
branched only if its objective is within epsilon of the best objective found.

Models are sliced, not masked. Gradients are computed only where a node is branched. A model that several orders of
actions reach is evaluated once. An evaluation ends as soon as the remaining images cannot change its decision. With
``exact`` every decision is that of the plain search.

Without ``exact``, the same tree is searched in another order and with fewer gradients. Children are visited by the
objective that their importance predicts, so that the first path ends at a good leaf. Nodes on this path are branched
by their prediction and evaluated on the way back, when the leaf has settled most of them by their cost alone.
Importance is measured again every few actions; in between, the importance of the remaining units is kept. An action
that removes units of very little importance is assumed to change no answer, so that the results with and without
these units bound each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from compress.budget import Budget, Cost
from compress.data.search_images import SearchImages
from compress.importance.scores import fisher_scores
from compress.importance.units import Importance, group_importance
from compress.model.slicing import KeptUnits, compose, keep_all, slice_vit, widths_of
from compress.model.vit import SlicedViT
from compress.search.base import MeasuredUnits
from compress.search.one_shot import GroupRemoval, multiples_of, price, removals
from runtime import Progress, ShapePlan, encode, silent

from .evaluation import Evaluated, Evaluation, objective
from .journal import TreeJournal, removal_of, removed_units
from .nodes import ACTIONS, GRADIENT_COST, ActionStep, AnswerBound, KnownImportance, SearchNode, SearchResult
from .progress import Outlook, short_change
from .settings import TreeEffort, TreeSettings


def search_tree(
    model: SlicedViT,
    images: SearchImages,
    cost: Cost,
    total: int,
    settings: TreeSettings | None = None,
    *,
    effort: TreeEffort | None = None,
    budget: Budget | None = None,
    bf16: bool = False,
    journal: TreeJournal | None = None,
    progress: Progress = silent,
    measured: MeasuredUnits | None = None,
) -> SearchResult:
    """Searches the tree of pruning actions under ``model``.

    Args:
        model: the model at the root; it is not changed.
        images: the Search Set.
        cost: cost in the objective.
        total: cost of the unpruned model of the first iteration.
        settings: depth, epsilon, weight of the cost.
        effort: group sizes, and the work for each decision.
        budget: a path ends where it is met; actions that undershoot it by more than 2 % are taken only if no other is
            left.
        bf16: evaluate and differentiate under bfloat16 autocast.
        journal: journal that records operations and replays recorded ones.
        progress: called after every evaluation with the forward-equivalents done and the expected total.
        measured: importance and cuts in the best bases; None measures Fisher importance and slices.

    Raises:
        ArtifactError: the journal is of another search.
        StorageError: the journal cannot be written.
    """
    settings, effort = settings or TreeSettings(), effort or TreeEffort()
    tree = TreeSearch(images, cost, total, settings, effort, budget, bf16, journal, progress, measured)
    tree.search(model)
    progress("search", tree.used, tree.used, tree.note(tree.root))
    return SearchResult(tree.best, tree.best_smaller, tree.root, tree.nodes, tree.branched, tree.repeats, tree.used)


class TreeSearch:
    """The state of one tree search."""

    root: SearchNode
    best: SearchNode
    best_smaller: SearchNode | None = None
    diving: bool = False

    def __init__(
        self,
        images: SearchImages,
        cost: Cost,
        total: int,
        settings: TreeSettings,
        effort: TreeEffort,
        budget: Budget | None,
        bf16: bool,
        journal: TreeJournal | None,
        progress: Progress,
        measured: MeasuredUnits | None = None,
    ) -> None:
        self.measured = measured
        self.images, self.cost, self.total, self.budget = images, cost, total, budget
        self.settings, self.effort = settings, effort
        self.bf16, self.journal, self.progress = bf16, journal, progress
        self.seen: set[KeptUnits] = set()
        self.evaluation = Evaluation(images, total, settings, effort, bf16)
        self.nodes = self.branched = self.repeats = self.used = 0
        self.outlook = Outlook(settings.depth, len(ACTIONS), self.gradient_work())

    def search(self, model: SlicedViT) -> None:
        """Searches everything under ``model``."""
        everything, known, alike = keep_all(model.plan), self.known(model), AnswerBound(len(self.images))
        if self.settings.exact or self.meets(model.plan):
            self.look(model, everything, (), alike)
            if not self.meets(model.plan):
                self.visit(model, everything, (), known, alike)
        else:
            self.diving = True
            self.root = self.unseen(model, everything, ())
            self.visit(model, everything, (), known, alike)
            self.look(model, everything, (), alike, passed=True)

    def visit(
        self,
        model: SlicedViT,
        kept: KeptUnits,
        path: tuple[ActionStep, ...],
        known: KnownImportance,
        alike: AnswerBound,
    ) -> None:
        """Branches the node of ``model``, and all nodes below it that are worth branching."""
        self.branched += 1
        children, depth = self.children(model, known), len(path) + 1
        self.outlook.opened(depth, len(children))
        for removal in children:
            left = compose(kept, removal.kept)
            there = (*path, ActionStep(removal.action, removal.block))
            if left in self.seen:
                self.repeats += 1
                self.outlook.repeated(depth)
                self.note_operation("repeat", {"path": encode(there)})
                continue
            smaller = self.cut(model, removal.kept, left)
            below = self.known_below(smaller, known, removal.kept)
            like = alike if self.negligible(removal) else AnswerBound(len(self.images))
            if self.diving and not self.ends(smaller.plan, there):
                self.seen.add(left)
                self.visit(smaller, left, there, below, like)
                self.look(smaller, left, there, like, passed=True)
            else:
                _, verdict = self.look(smaller, left, there, like)
                if verdict == "branched":
                    self.visit(smaller, left, there, below, like)

    def cut(self, model: SlicedViT, kept: KeptUnits, whole: KeptUnits) -> SlicedViT:
        """Returns the model that keeps the units ``kept`` of ``model``, which are ``whole`` of the root's model."""
        return slice_vit(model, kept) if self.measured is None else self.measured.cut(whole)

    def known_below(self, smaller: SlicedViT, known: KnownImportance, kept: KeptUnits) -> KnownImportance:
        """Returns the importance of a model that keeps the units ``kept`` of one whose importance is known."""
        stale = self.measured is None and known.age + 1 >= self.refresh
        return self.known(smaller) if stale else known.below(kept)

    @property
    def refresh(self) -> int:
        """Number of actions after which importance is measured again."""
        return 1 if self.settings.exact else self.effort.refresh

    def known(self, model: SlicedViT) -> KnownImportance:
        """Returns the importance of the units of ``model``, which is measured when it is first needed."""
        if self.measured is not None:
            given = self.measured.importance
            return KnownImportance(0, lambda: given)

        def take() -> Importance:
            chosen = self.images.spread(self.gradient_work() // GRADIENT_COST)
            scores = fisher_scores(model, chosen.batches(self.effort.gradient_batch), bf16=self.bf16)
            return group_importance(model.plan, scores)

        return KnownImportance(0, take)

    def gradient_work(self) -> int:
        """Returns the forward-equivalents of one measurement of importance."""
        if self.measured is not None:
            return 0
        share = 1.0 if self.settings.exact else self.effort.gradient_share
        return GRADIENT_COST * max(1, round(share * len(self.images)))

    def ends(self, plan: ShapePlan, path: tuple[ActionStep, ...]) -> bool:
        """Returns whether a path ends here: it has the greatest depth, or the budget is met."""
        return len(path) == self.settings.depth or self.meets(plan)

    def children(self, model: SlicedViT, known: KnownImportance) -> list[GroupRemoval]:
        """Returns the removal of the least important group of each kind.

        For uneven costs it is the removal with the least importance lost per cost saved.
        """
        self.used += 0 if known.age else self.gradient_work()
        entry = self.journal.replay("branch") if self.journal else None
        if entry is not None:
            return [removal_of(model.plan, *child) for child in entry["children"]]
        importance = known.importance()
        multiples = multiples_of(self.cost)
        everything = keep_all(model.plan)
        options = self.legal(model, removals(model.plan, importance, everything, self.effort.sizes, multiples))
        before = self.cost.of(model.plan)

        def rank(option: GroupRemoval) -> float:
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

    def predicted_gain(self, model: SlicedViT, option: GroupRemoval) -> float:
        """Returns the expected gain of the objective by an action, bits.

        To second order, the loss rises by half the sum of the squared gradients of single images. The importance is of
        batches of B images, whose squared gradients are B times smaller: the rise is ``B / 2 * I`` nats.
        """
        saved = math.log2(self.cost.of(model.plan) / self.cost.of(widths_of(model.plan, option.kept)))
        lost = self.effort.gradient_batch / 2 * option.importance / math.log(2)
        return self.settings.cost_weight * saved - lost

    def negligible(self, option: GroupRemoval) -> bool:
        """Returns whether an action is expected to change no answer: ``N * sqrt(B * importance) < 1``.

        The root is the root mean square change of an image's loss to first order, in nats. Of N images whose losses
        spread over a nat or more, fewer than one are this close to a tie.
        """
        moved = math.sqrt(self.effort.gradient_batch * max(0.0, option.importance))
        return not self.settings.exact and len(self.images) * moved < 1

    def unseen(self, model: SlicedViT, kept: KeptUnits, path: tuple[ActionStep, ...]) -> SearchNode:
        """Returns a node of which only the cost is known."""
        count, cost = len(self.images), self.cost.of(model.plan)
        value = objective(count, count, cost, self.total, self.settings.cost_weight)
        return SearchNode(path, kept, model.plan, cost, count, False, value)

    def meets(self, plan: ShapePlan) -> bool:
        """Returns whether there is a budget and ``plan`` meets it."""
        return self.budget is not None and self.budget.of(plan) <= self.budget.limit

    def legal(self, model: SlicedViT, options: Iterable[GroupRemoval]) -> list[GroupRemoval]:
        """Returns the options that do not undershoot the budget; all options where every one does."""
        every = list(options)
        if self.budget is None:
            return every
        good = [o for o in every if self.budget.of(widths_of(model.plan, o.kept)) >= self.budget.floor]
        return good or every

    def look(
        self,
        model: SlicedViT,
        kept: KeptUnits,
        path: tuple[ActionStep, ...],
        alike: AnswerBound,
        needed: float | None = None,
        *,
        passed: bool = False,
    ) -> tuple[SearchNode, str]:
        """Evaluates a model and returns its verdict: ``branched``, ``bounded``, ``leaf``, ``met`` or ``passed``.

        Args:
            model: the sliced model.
            kept: its units, as indices into the root.
            path: the actions that lead to it.
            alike: bound shared with the models that are assumed to answer alike.
            needed: objective that the model must exceed to matter; None takes what the tree requires.
            passed: whether the nodes below it were searched already.
        """
        cost, count, weight = self.cost.of(model.plan), len(self.images), self.settings.cost_weight
        self.diving = False  # a first leaf or an earlier end of a path is known
        end = passed or self.ends(model.plan, path)
        best = getattr(self, "best", None)
        if needed is None:
            needed = -math.inf if best is None else best.objective - (0.0 if end else self.settings.epsilon)
            if self.budget is not None:  # something must go, even where the root is the best
                needed = min(needed, -math.inf if self.best_smaller is None else self.best_smaller.objective)
        entry = self.journal.replay("look") if self.journal else None
        seen = self.evaluation.of(model, cost, needed, alike.most) if entry is None else Evaluated.of(entry)
        alike.most = min(alike.most, seen.correct)
        value = objective(seen.correct, count, cost, self.total, weight)
        node = SearchNode(path, kept, model.plan, cost, seen.correct, seen.complete, value)
        if not path:
            self.root = node
        if seen.complete and (best is None or value > best.objective):
            self.best = node
            self.evaluation.arrange(seen)
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
            details = {"path": encode(path), "cost": cost, "objective": value if math.isfinite(value) else None}
            best = seen.order if node is self.best else None
            self.record({"op": "look", **details, **seen.as_json(), "order": best, "verdict": verdict})
        opens = verdict == "branched" or not (path or end)
        self.outlook.looked(len(path), seen.images, branched=opens, improved=node is self.best)
        self.progress("search", self.used, self.outlook.total(self.used), self.note(node))
        return node, verdict

    def note(self, node: SearchNode) -> str:
        """Returns the place of the search and the best plan so far, for the progress line."""
        chosen = self.best_smaller or self.best
        right, share = chosen.correct / len(self.images), chosen.cost / self.total
        return (
            f"best {chosen.objective:.4f}: top-1 {100 * right:.1f} %, cost {100 * share:.1f} %, "
            f"{short_change(self.root.plan, chosen.plan)}; node {self.nodes}, depth {len(node.path)}"
        )

    def note_operation(self, operation: str, details: dict[str, Any]) -> None:
        """Records an operation without work, unless the journal replays it."""
        if self.journal is not None and self.journal.replay(operation) is None:
            self.journal.record({"op": operation, **details})

    def record(self, entry: dict[str, Any]) -> None:
        """Records an operation if there is a journal."""
        if self.journal is not None:
            self.journal.record(entry)
