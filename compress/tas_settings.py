"""How a transformable architecture search learns, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from runtime import PlanError

Alignment = Literal["interpolate", "mask"]
"""How the channels of a narrower candidate are added to those of a wider one: interpolated to its channels, as
published, or to its first ones, whose units they are."""


@dataclass(frozen=True)
class TasSettings:
    """How odds over widths and depth are learnt.

    Attributes:
        candidates: most candidates of a width or of the depth.
        least_share: the smallest candidate, as a share of the model's own width or depth, 0..1.
        tolerance: share of the budget by which the result may stay below it, 0..1.
        cost_weight: lambda, the weight of the cost loss.
        lr: learning rate of the odds' logits (Adam).
        weight_decay: of the logits.
        hot: temperature of the first samples.
        cold: temperature of the last; it falls linearly.
        records: about how many lines the journal has.
        align: how channels of two candidates are added up.

    Raises:
        PlanError: a value is out of range.
    """

    candidates: int = 8
    least_share: float = 0.3
    tolerance: float = 0.05
    cost_weight: float = 2.0
    lr: float = 0.05
    weight_decay: float = 0.001
    hot: float = 10.0
    cold: float = 0.1
    records: int = 100
    align: Alignment = "interpolate"

    def __post_init__(self) -> None:
        for name, low in (("candidates", 2), ("records", 1)):
            if getattr(self, name) < low:
                raise PlanError(f"{name} must be at least {low}", got=getattr(self, name))
        if self.align not in get_args(Alignment):
            expected = " or ".join(get_args(Alignment))
            raise PlanError("Channels are aligned in one of two ways", expected=expected, got=self.align)
        for name in ("least_share", "tolerance"):
            if not 0 < getattr(self, name) < 1:
                raise PlanError(f"{name} must be more than 0 and less than 1", got=getattr(self, name))
        for name in ("cost_weight", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PlanError(f"{name} must not be negative", got=getattr(self, name))
        for name in ("lr", "hot", "cold"):
            if not 0 < getattr(self, name) < math.inf:
                raise PlanError(f"{name} must be positive", got=getattr(self, name))
        if self.cold > self.hot:
            raise PlanError("Samples get colder: cold must not be above hot", got=f"{self.hot} to {self.cold}")
