"""How small the model must get: a share or a number of parameters or MACs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from runtime import MULTIPLE, BlockPlan, PlanError, ShapePlan, macs, params

CostName = Literal["params", "macs"]
_COSTS = {"params": params, "macs": macs}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Budget:
    """The most a model may cost.

    Attributes:
        cost: what is counted.
        limit: the most of it, inclusive.
    """

    cost: CostName
    limit: int

    def of(self, plan: ShapePlan) -> int:
        """Returns what ``plan`` costs in this budget's unit."""
        return _COSTS[self.cost](plan)


def parse_budget(text: str, baseline: ShapePlan) -> Budget:
    """Reads ``macs=0.75`` (a share of the baseline's), ``macs=300M`` or ``params=4.1M`` (a number).

    Raises:
        PlanError: the text is no budget, or no plan can be that small; the text says the smallest.
    """
    match = re.fullmatch(r"(params|macs)=(\d+(?:\.\d+)?|\.\d+)([KMG]?)", text.strip())
    value = Fraction(match[2]) if match else Fraction(0)
    if match is None or value <= 0:
        raise PlanError(
            "That is not a budget", expected="macs=0.75, params=0.7, macs=300M or params=4.1M", got=repr(text)
        )
    cost: CostName = "params" if match[1] == "params" else "macs"
    whole, least = _COSTS[cost](baseline), _COSTS[cost](smallest_plan(baseline))
    share = not match[3] and value <= 1
    limit = int(value * whole) if share else int(value * _UNITS[match[3]])
    if limit < least:
        raise PlanError(
            f"The budget {text} cannot be met by this model",
            expected=f"at least {cost}={_share(least, whole)} ({least:,} of {whole:,})",
            got=f"{limit:,}",
            fix="Raise the budget or start from a smaller model",
        )
    return Budget(cost, limit)


def smallest_plan(plan: ShapePlan) -> ShapePlan:
    """Returns the least plan that pruning ``plan`` can reach: one head and 8 of every width."""
    block = BlockPlan(1, MULTIPLE, MULTIPLE, MULTIPLE)
    return replace(plan, embed_dim=MULTIPLE, blocks=(block,) * len(plan.blocks))


def _share(part: int, whole: int) -> str:
    """Formats a share rounded up, so that what the message names can be met."""
    return f"{-(-part * 10**4 // whole) / 10**4:.4f}"
