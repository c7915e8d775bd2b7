"""How a tree of pruning actions is searched."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from compress.search.one_shot import GroupSizes
from runtime import PlanError, check_fields


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
        error: without ``exact``, the chance that an evaluation gives up a model that a full one would not, 0..1; models
            that are taken to answer alike are given up with it.
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
    gradient_share: float = 0.3

    def __post_init__(self) -> None:
        check_fields(self)
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
