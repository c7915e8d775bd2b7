"""Depth-limited depth-first branch-and-bound over pruning actions (DL-DFBnB): one iteration of the search.

Starting from a model, every node has five children, one per action; each action removes the least important group
of its kind. A node is branched only while its objective is within epsilon of the best one found.

Nodes are sliced, not masked; gradients are taken where a node is branched and nowhere else; orders of actions that
reach the same model are looked at once; and an evaluation ends as soon as the images left cannot change what it
decides. With ``exact`` every decision is that of the plain search.

Without it, the same tree is searched in another order and on fewer gradients. Children are visited by the objective
that their importance predicts, so the first path down ends at a good leaf; nodes on it are branched on that
prediction and looked at on the way back, when the leaf has settled most of them by their cost alone. Importance is
taken anew every few actions, and in between that of the units still there is kept. An action that removes units of
hardly any importance is taken to change no answer: what is known of the model with them bounds the one without, and
the other way round.
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
) -> SearchResult:
    """Searches the tree of pruning actions under ``model``.

    Args:
        model: where the tree starts; left as it is.
        images: the Search Set.
        cost: what the objective counts.
        total: what the unpruned model of the first iteration costs.
        settings: depth, epsilon, weight of the cost.
        effort: group sizes, and how much work a decision takes.
        budget: where a path ends, and which is not undershot by more than 2 % while another action is left.
        bf16: evaluate and differentiate under bfloat16 autocast.
        journal: where operations are recorded and replayed from.
        progress: called for every node looked at: forward-equivalents done, and what the whole search may take.

    Raises:
        ArtifactError: the journal is of another search.
        StorageError: the journal cannot be written.
    """
    tree = TreeSearch(
        images, cost, total, settings or TreeSettings(), effort or TreeEffort(), budget, bf16, journal, progress
    )
    tree.search(model)
    progress("search", tree.used, tree.used, tree.note(tree.root))
    return SearchResult(tree.best, tree.best_smaller, tree.root, tree.nodes, tree.branched, tree.repeats, tree.used)


class TreeSearch:
    """What is known while one tree is searched."""

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
    ) -> None:
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
        """Branches a node, whose sliced model is ``model``, and everything below it that is worth it."""
        self.branched += 1
        children, depth = self.children(model, known), len(path) + 1
        self.outlook.opened(depth, len(children))
        for removal in children:
            left = compose(kept, removal.kept)
            there = (*path, ActionStep(removal.action, removal.block))
            if left in self.seen:
                self.repeats += 1
                self.outlook.repeated(depth)
                self.tell("repeat", {"path": encode(there)})
                continue
            smaller = slice_vit(model, removal.kept)
            below = self.known(smaller) if known.age + 1 >= self.refresh else known.below(removal.kept)
            like = alike if self.negligible(removal) else AnswerBound(len(self.images))
            if self.diving and not self.ends(smaller.plan, there):
                self.seen.add(left)
                self.visit(smaller, left, there, below, like)
                self.look(smaller, left, there, like, passed=True)
            else:
                _, verdict = self.look(smaller, left, there, like)
                if verdict == "branched":
                    self.visit(smaller, left, there, below, like)

    @property
    def refresh(self) -> int:
        """Actions after which importance is taken anew."""
        return 1 if self.settings.exact else self.effort.refresh

    def known(self, model: SlicedViT) -> KnownImportance:
        """Returns the importance of the units of ``model``, to be taken when it is first needed."""

        def take() -> Importance:
            chosen = self.images.spread(self.gradient_work() // GRADIENT_COST)
            scores = fisher_scores(model, chosen.batches(self.effort.gradient_batch), bf16=self.bf16)
            return group_importance(model.plan, scores)

        return KnownImportance(0, take)

    def gradient_work(self) -> int:
        """Returns the forward-equivalents of taking importance once."""
        share = 1.0 if self.settings.exact else self.effort.gradient_share
        return GRADIENT_COST * max(1, round(share * len(self.images)))

    def ends(self, plan: ShapePlan, path: tuple[ActionStep, ...]) -> bool:
        """Tells whether a path ends here: it is as deep as it may be, or the budget is met."""
        return len(path) == self.settings.depth or self.meets(plan)

    def children(self, model: SlicedViT, known: KnownImportance) -> list[GroupRemoval]:
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
        """Returns by how much an action is expected to lift the objective, bits.

        To second order the loss rises by half of what the squared gradients of single images sum up to, and the
        importance holds those of batches of B, which are B times smaller: ``B / 2 * I`` nats.
        """
        saved = math.log2(self.cost.of(model.plan) / self.cost.of(widths_of(model.plan, option.kept)))
        lost = self.effort.gradient_batch / 2 * option.importance / math.log(2)
        return self.settings.cost_weight * saved - lost

    def negligible(self, option: GroupRemoval) -> bool:
        """Tells whether an action is expected to change no answer: ``N * sqrt(B * importance) < 1``.

        The root is how far the loss of an image moves, root mean square and to first order, in nats; so of N images
        with their losses spread over a nat and more, less than one is as close to a tie.
        """
        moved = math.sqrt(self.effort.gradient_batch * max(0.0, option.importance))
        return not self.settings.exact and len(self.images) * moved < 1

    def unseen(self, model: SlicedViT, kept: KeptUnits, path: tuple[ActionStep, ...]) -> SearchNode:
        """Returns a node of which nothing is known but its cost."""
        count, cost = len(self.images), self.cost.of(model.plan)
        value = objective(count, count, cost, self.total, self.settings.cost_weight)
        return SearchNode(path, kept, model.plan, cost, count, False, value)

    def meets(self, plan: ShapePlan) -> bool:
        """Tells whether ``plan`` is within the budget, where there is one."""
        return self.budget is not None and self.budget.of(plan) <= self.budget.limit

    def legal(self, model: SlicedViT, options: Iterable[GroupRemoval]) -> list[GroupRemoval]:
        """Returns the options that do not undershoot the budget, or, where all do, all."""
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
        """Evaluates a model, and says what becomes of it: ``branched``, ``bounded``, ``leaf``, ``met`` or ``passed``.

        Args:
            model: the sliced model.
            kept: what it keeps of the root.
            path: the actions that lead to it.
            alike: models that have no more right than this one, nor it than they.
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
            told = {"path": encode(path), "cost": cost, "objective": value if math.isfinite(value) else None}
            best = seen.order if node is self.best else None
            self.record({"op": "look", **told, **seen.as_json(), "order": best, "verdict": verdict})
        opens = verdict == "branched" or not (path or end)
        self.outlook.looked(len(path), seen.images, branched=opens, improved=node is self.best)
        self.progress("search", self.used, self.outlook.total(self.used), self.note(node))
        return node, verdict

    def note(self, node: SearchNode) -> str:
        """Returns where the search is, and the plan it would choose now, for people."""
        chosen = self.best_smaller or self.best
        right, share = chosen.correct / len(self.images), chosen.cost / self.total
        return (
            f"best {chosen.objective:.4f}: top-1 {100 * right:.1f} %, cost {100 * share:.1f} %, "
            f"{short_change(self.root.plan, chosen.plan)}; node {self.nodes}, depth {len(node.path)}"
        )

    def tell(self, operation: str, details: dict[str, Any]) -> None:
        """Records an operation that takes no work, unless it is recorded."""
        if self.journal is not None and self.journal.replay(operation) is None:
            self.journal.record({"op": operation, **details})

    def record(self, entry: dict[str, Any]) -> None:
        """Records an operation, where there is a journal."""
        if self.journal is not None:
            self.journal.record(entry)
