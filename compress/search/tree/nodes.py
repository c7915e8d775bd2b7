"""Nodes of a tree search, the importance and bounds known of them, and the search's result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compress.importance.units import Importance, part_of
from compress.model.slicing import KeptUnits
from compress.search.one_shot import Action
from runtime import ShapePlan

ACTIONS: tuple[Action, ...] = ("mlp", "qk", "v", "head", "embed")
"""The five actions, in the order in which an exact search visits children."""

GRADIENT_COST = 3
"""Forward-equivalents of one image in a gradient pass: forward, and a backward of twice its work."""


@dataclass(frozen=True)
class ActionStep:
    """One action on the path to a node: its kind, and its block (-1: the whole model)."""

    action: Action
    block: int


@dataclass(frozen=True)
class SearchNode:
    """A model in the tree.

    Attributes:
        path: the actions that lead to the model.
        kept: its units, as indices into the model that the search started from.
        plan: its plan.
        cost: cost of the plan.
        correct: images of the Search Set that it classifies correctly; an upper bound if not ``complete``.
        complete: whether every image was evaluated.
        objective: ``log2(accuracy) - cost_weight * log2(cost / total)``, with ``correct`` for the accuracy.
    """

    path: tuple[ActionStep, ...]
    kept: KeptUnits
    plan: ShapePlan
    cost: int
    correct: int
    complete: bool
    objective: float


@dataclass
class KnownImportance:
    """Importance of the units of a model, measured on the model or a larger one when it is first needed.

    Attributes:
        age: number of actions since the measurement.
        take: measures the importance.
    """

    age: int
    take: Callable[[], Importance]
    _taken: Importance | None = None

    def importance(self) -> Importance:
        """Returns the importance, measuring it on the first call."""
        if self._taken is None:
            self._taken = self.take()
        return self._taken

    def below(self, kept: KeptUnits) -> KnownImportance:
        """Returns the importance of the model that keeps the units ``kept`` of this one."""
        return KnownImportance(self.age + 1, lambda: part_of(self.importance(), kept))


@dataclass
class AnswerBound:
    """An upper bound shared by models that are assumed to answer alike, since they differ in unimportant units.

    Attributes:
        most: upper bound of the images that any of them classifies correctly.
    """

    most: int


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one search.

    Attributes:
        best: the node with the highest objective, the first among equals.
        best_smaller: the best node below the root; None where nothing can be removed.
        root: the node of the starting model; it may be evaluated only as far as needed to compare it.
        nodes: number of evaluated models.
        branched: number of branched nodes.
        repeats: visits saved because another order of the same actions had reached the model.
        images: forward-equivalents of all evaluations and gradients.
    """

    best: SearchNode
    best_smaller: SearchNode | None
    root: SearchNode
    nodes: int
    branched: int
    repeats: int
    images: int
