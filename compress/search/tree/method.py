"""The search methods ``dfbnb`` and ``greedy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        StorageError: the journal cannot be written.
    """
    return _searched(search_tree, inputs)


def choose_greedily(inputs: SearchInputs) -> Proposal:
    """Follows the best action again and again until the budget is met.

    Raises:
        PlanError: nothing can be removed, or nothing is left to remove and the budget is not met.
        StorageError: the journal cannot be written.
    """
    return _searched(search_greedily, inputs)


def recorded(settings: TreeSettings, effort: TreeEffort) -> dict[str, Any]:
    """Returns the settings that a journal keeps, in one object as earlier versions did."""
    own = encode(settings) | encode(effort)
    return {name: value for name, value in own.items() if name not in ("iterations", "round_epochs")}


def _searched(search: Callable[..., SearchResult], inputs: SearchInputs) -> Proposal:
    images, effort = inputs.draw_images(), TreeEffort(inputs.groups, inputs.gradient_batch)
    header = {**inputs.asked, "tree": recorded(inputs.settings, effort), "images": len(images)}
    found = search(
        inputs.model,
        images,
        inputs.required_cost,
        inputs.total,
        inputs.settings,
        effort=effort,
        budget=inputs.budget,
        bf16=inputs.bf16,
        journal=TreeJournal(inputs.folder / "journal.jsonl", header),
        measured=inputs.measured,
        progress=inputs.progress,
    )
    if found.best_smaller is None:
        raise PlanError("The search found nothing that can go", fix="Choose smaller groups with --group-size")
    return Proposal(found.best_smaller.plan, found.best_smaller.kept)
