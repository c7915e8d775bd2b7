"""What a tree search knows of its models, and what it returns."""

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
    """One action on the path to a node: its kind, and the block it was taken in (-1: the whole model)."""

    action: Action
    block: int


@dataclass(frozen=True)
class SearchNode:
    """A model in the tree.

    Attributes:
        path: the actions that lead to it.
        kept: what is left, as indices into the model that the search started from.
        plan: its shape.
        cost: cost of that plan.
        correct: images of the Search Set it has right; where ``complete`` is false, at most so many.
        complete: whether every image was looked at.
        objective: ``log2(accuracy) - cost_weight * log2(cost / total)``, of ``correct``.
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

    def below(self, kept: KeptUnits) -> KnownImportance:
        """Returns what is then known of the model that keeps ``kept`` of this one."""
        return KnownImportance(self.age + 1, lambda: part_of(self.importance(), kept))


@dataclass
class AnswerBound:
    """Models that are taken to answer alike, since what one has less than the other hardly matters.

    Attributes:
        most: images that any of them has right, at most, as far as is known.
    """

    most: int


@dataclass(frozen=True)
class SearchResult:
    """What an iteration found.

    Attributes:
        best: the node with the highest objective, the first of equals.
        best_smaller: the same among those below the root; None where nothing can go.
        root: the model that was started from; looked at no further than it took to know whether it is the best.
        nodes: models looked at.
        branched: branched of these, how many were branched.
        repeats: visits that another order of the same actions made unnecessary.
        images: forward-equivalents of all evaluations and gradients.
    """

    best: SearchNode
    best_smaller: SearchNode | None
    root: SearchNode
    nodes: int
    branched: int
    repeats: int
    images: int
