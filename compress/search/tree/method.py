"""The search methods ``dfbnb`` and ``greedy``."""

from __future__ import annotations

from compress.search.base import Proposal, SearchInputs
from runtime import PlanError, encode

from .greedy import search_greedily
from .journal import TreeJournal
from .nodes import SearchResult
from .search import search_tree
from .settings import TreeEffort, TreeSettings


def choose(inputs: SearchInputs) -> Proposal:
    """Searches one round by branch and bound.

    Raises:
        PlanError: nothing can be removed.
        ArtifactError: the journal in the folder is of another search.
        StorageError: the journal cannot be written.
    """
    images, effort = inputs.draw_images(), _effort(inputs)
    found = search_tree(
        inputs.model,
        images,
        inputs.required_cost,
        inputs.total,
        inputs.settings,
        effort=effort,
        budget=inputs.budget,
        bf16=inputs.bf16,
        journal=_journal(inputs, effort, len(images)),
        progress=inputs.progress,
    )
    return _proposal(found)


def choose_greedily(inputs: SearchInputs) -> Proposal:
    """Follows the best action again and again until the budget is met.

    Raises:
        PlanError: nothing can be removed, or nothing is left to remove and the budget is not met.
        ArtifactError: the journal in the folder is of another search.
        StorageError: the journal cannot be written.
    """
    images, effort = inputs.draw_images(), _effort(inputs)
    found = search_greedily(
        inputs.model,
        images,
        inputs.required_cost,
        inputs.total,
        inputs.settings,
        inputs.required_budget,
        effort=effort,
        bf16=inputs.bf16,
        journal=_journal(inputs, effort, len(images)),
        progress=inputs.progress,
    )
    return _proposal(found)


def _effort(inputs: SearchInputs) -> TreeEffort:
    return TreeEffort(inputs.groups, inputs.gradient_batch)


def _journal(inputs: SearchInputs, effort: TreeEffort, images: int) -> TreeJournal:
    settings: TreeSettings = inputs.settings
    own = encode(settings) | encode(effort)
    recorded = {name: value for name, value in own.items() if name not in ("iterations", "round_epochs")}
    return TreeJournal(inputs.folder / "journal.jsonl", {**inputs.asked, "tree": recorded, "images": images})


def _proposal(found: SearchResult) -> Proposal:
    best = found.best_smaller
    if best is None:
        raise PlanError("The search found nothing that can go", fix="Choose smaller groups with --group-size")
    return Proposal(best.plan, best.kept)
