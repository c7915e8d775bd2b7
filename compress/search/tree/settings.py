"""Settings of the searches over a tree of pruning actions. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

from compress.search.base import GroupSizes
from runtime import PlanError, check_fields
from runtime.options import Option


@dataclass(frozen=True)
class TreeSettings:
    """How ``dfbnb`` searches; the defaults are the published ones. ``greedy`` uses ``cost_weight`` and ``exact``.

    Each field's ``Option`` describes it. With ``exact``, gradients are taken at every branched node and on the whole
    Search Set, children come in the order of ``ACTIONS``, and every node is evaluated before it is branched.

    Raises:
        PlanError: a value is of another type or out of range.
    """

    iterations: Annotated[
        int, Option("dfbnb: most rounds of search, slicing and recovery; it ends earlier when the budget is met.")
    ] = 15
    depth: Annotated[int, Option("dfbnb: most actions on one path of a tree.")] = 6
    epsilon: Annotated[
        float, Option("dfbnb: nodes whose objective is at most this much (bits) below the best are still branched.")
    ] = 0.005
    cost_weight: Annotated[float, Option("dfbnb, greedy: lambda, the weight of the cost in the objective.")] = 1.0
    exact: Annotated[
        bool, Option("dfbnb, greedy, tas: search as published; dfbnb at several times the work.", negative=False)
    ] = False
    round_epochs: Annotated[
        int | None,
        Option("dfbnb: most epochs of recovery after every round but the last; by default a quarter of the last's."),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("iterations", "depth"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1", got=getattr(self, name))
        for name in ("epsilon", "cost_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PlanError(f"{name} must not be negative", got=getattr(self, name))
        if self.round_epochs is not None and self.round_epochs < 0:
            raise PlanError("round_epochs must not be negative", got=self.round_epochs)


@dataclass(frozen=True)
class TreeEffort:
    """How much work a tree search spends on each decision.

    Attributes:
        sizes: how many units one action removes.
        gradient_batch: images per gradient of the importance.
        eval_batch: most images per step of an evaluation, which may end after each step.
        error: without ``exact``, the chance that an evaluation gives up a model that a full one would not, 0..1.
            Models that are taken to answer alike are given up with it.
        refresh: without ``exact``, actions after which importance is measured again.
        gradient_share: without ``exact``, share of the Search Set that importance is measured on, 0..1.

    Raises:
        PlanError: a value is of another type or out of range.
    """

    sizes: GroupSizes = field(default_factory=GroupSizes)
    gradient_batch: int = 16
    eval_batch: int = 25
    error: float = 0.05
    refresh: int = 3
    gradient_share: float = 0.3

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("gradient_batch", "eval_batch", "refresh"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1", got=getattr(self, name))
        if not 0 < self.gradient_share <= 1:
            raise PlanError("gradient_share must be more than 0 and at most 1", got=self.gradient_share)
        if not 0 <= self.error < 1:
            raise PlanError("error must be at least 0 and less than 1", got=self.error)
