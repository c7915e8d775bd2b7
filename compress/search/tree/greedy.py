"""Greedy search: repeats the single action that leaves the best model until the budget is met."""

from __future__ import annotations

import math

from compress.budget import Budget, Cost
from compress.data.search_images import SearchImages
from compress.model.slicing import KeptUnits, compose, keep_all
from compress.model.vit import SlicedViT
from compress.search.base import MeasuredUnits
from runtime import Progress, silent

from .journal import TreeJournal
from .nodes import ActionStep, AnswerBound, SearchNode, SearchResult
from .progress import Descent
from .search import TreeSearch
from .settings import TreeEffort, TreeSettings


def search_greedily(
    model: SlicedViT,
    images: SearchImages,
    cost: Cost,
    total: int,
    settings: TreeSettings,
    *,
    budget: Budget,
    effort: TreeEffort | None = None,
    bf16: bool = False,
    journal: TreeJournal | None = None,
    progress: Progress = silent,
    measured: MeasuredUnits | None = None,
) -> SearchResult:
    """Takes the best of the five actions, by the objective of the resulting model, until the budget is met.

    Nodes, importance and objective are those of ``search_tree``, but a single path of any depth is followed. Among
    children with equal objectives the first is taken.

    Args:
        model: the model to start from; it is not changed.
        images: the Search Set.
        cost: cost in the objective.
        total: cost of the unpruned model.
        settings: the weight of the cost; depth and epsilon are not used.
        budget: the budget to meet.
        effort: group sizes, and the work for each decision.
        bf16: evaluate and differentiate under bfloat16 autocast.
        journal: journal that records operations and replays recorded ones.
        progress: called after every evaluation.
        measured: importance and cuts in the best bases; None measures Fisher importance and slices.

    Returns:
        The end of the path, as ``best`` and ``best_smaller`` (None where the model already meets the budget).

    Raises:
        PlanError: nothing is left to remove and the budget is not met.
        ArtifactError: the journal is of another search.
        StorageError: the journal cannot be written.
    """
    tree = TreeSearch(images, cost, total, settings, effort or TreeEffort(), budget, bf16, journal, progress, measured)
    tree.outlook = outlook = Descent(budget.of(model.plan), budget.limit)
    root, _ = tree.look(model, keep_all(model.plan), (), AnswerBound(len(tree.images)))
    node, found, known = root, None, tree.known(model)
    while not tree.meets(node.plan):
        tree.branched += 1
        best: tuple[SearchNode, SlicedViT, KeptUnits] | None = None
        alike = AnswerBound(node.correct)
        for removal in tree.children(model, known):
            kept = compose(node.kept, removal.kept)
            smaller = tree.cut(model, removal.kept, kept)
            needed = best[0].objective if best else -math.inf
            path = (*node.path, ActionStep(removal.action, removal.block))
            like = alike if tree.negligible(removal) else AnswerBound(len(tree.images))
            child, _ = tree.look(smaller, kept, path, like, needed)
            if best is None or (child.complete and child.objective > needed):
                best = child, smaller, removal.kept
        if best is None:
            raise budget.unreachable(budget.of(node.plan))
        found = node = best[0]
        outlook.reached(budget.of(node.plan))
        known = tree.known_below(best[1], known, best[2])
        model = best[1]
    progress("search", tree.used, tree.used, tree.note(node))
    return SearchResult(node, found, root, tree.nodes, tree.branched, 0, tree.used)
