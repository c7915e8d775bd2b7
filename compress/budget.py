"""What a model costs, and how small it must get: parameters, MACs, or milliseconds on a target."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from runtime import MULTIPLE, BlockPlan, LatencyTable, PlanError, ShapePlan, check_fits, latency_of, macs, params

Tables = Mapping[str, LatencyTable]
"""Latency tables by target."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_TIMES = {"us": 10**3, "ms": 10**6, "s": 10**9}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_EXAMPLES = "macs=0.75, params=0.7, macs=300M, params=4.1M, latency=12ms@cpu or latency=0.7@cpu"


@dataclass(frozen=True)
class Cost:
    """A way to count what a plan costs.

    Attributes:
        name: ``params``, ``macs`` or ``latency@TARGET``.
        of: the cost of a plan; latency in nanoseconds. Additive over the blocks once embed_dim is fixed.
    """

    name: str
    of: Callable[[ShapePlan], int]

    @property
    def uneven(self) -> bool:
        """Whether equal steps of a width save unequal costs, some of them nothing, as with time."""
        return self.name.startswith("latency")

    def budget(self, value: int) -> str:
        """Returns the budget of ``value`` as ``parse_budget`` reads it, or hardly more."""
        if not self.uneven:
            return f"{self.name}={value}"
        return f"latency={-(-value // 1000) / 1000:.3f}ms@{latency_target(self.name)}"

    def shown(self, value: int) -> str:
        """Formats a cost for people: a number, or milliseconds."""
        return f"{value / 1e6:.3f}ms" if self.uneven else f"{value:,}"


COUNTS = {"params": Cost("params", params), "macs": Cost("macs", macs)}
"""The costs that need no measurement, by name."""


@dataclass(frozen=True)
class Budget:
    """The most a model may cost.

    Attributes:
        cost: what is counted.
        limit: the most of it, inclusive.
    """

    cost: Cost
    limit: int

    def of(self, plan: ShapePlan) -> int:
        """Returns what ``plan`` costs in this budget's unit."""
        return self.cost.of(plan)

    def unreachable(self, least: int) -> PlanError:
        """Returns the error to raise where no plan costs less than ``least``."""
        return PlanError(
            "The budget cannot be met with these group sizes",
            expected=f"at least {self.cost.budget(least)}",
            got=self.cost.budget(self.limit),
            fix="Raise the budget or choose smaller groups",
        )

    @property
    def floor(self) -> float:
        """The least a result should cost: more than 2 % below the limit, something was given away for nothing."""
        return 0.98 * self.limit


def parse_cost(text: str, baseline: ShapePlan, tables: Tables | None = None) -> Cost:
    """Reads ``params``, ``macs`` or ``latency@TARGET``.

    Raises:
        PlanError: the text names no cost, or there is no latency table of that target for this architecture.
    """
    name = text.strip()
    if name in COUNTS:
        return COUNTS[name]
    target = latency_target(name)
    if target is None:
        raise PlanError("That is not a cost", expected="params, macs or latency@cpu", got=repr(text))
    table = (tables or {}).get(target)
    if table is None:
        raise PlanError(f"There is no latency table of {target}", fix="Measure one with: pocketvit profile")
    check_fits(table, baseline)
    return Cost(name, latency_of(table))


def latency_target(name: str) -> str | None:
    """Returns the target of ``latency@TARGET``; None where the cost is not one of time."""
    match = re.fullmatch(r"latency@(\S+)", name)
    return match[1] if match else None


def budget_cost(text: str) -> str:
    """Returns the name of the cost that a budget limits; checks how it is written, and nothing else.

    Raises:
        PlanError: the text is no budget.
    """
    return _read(text)[0]


def parse_budget(text: str, baseline: ShapePlan, tables: Tables | None = None) -> Budget:
    """Reads a budget.

    ``macs=0.75`` is a share of the baseline's, ``macs=300M`` and ``params=4.1M`` are numbers, ``latency=12ms@cpu``
    (``us``, ``ms`` or ``s``) and ``latency=0.7@cpu`` a time on a target, predicted by its latency table.

    Raises:
        PlanError: the text is no budget, its table is missing, or no plan can be that small; the text says which can.
    """
    name, value, unit = _read(text)
    cost = parse_cost(name, baseline, tables)
    whole, least = cost.of(baseline), cost.of(smallest_plan(baseline))
    limit = int(value * whole) if unit is None else int(value * unit)
    if limit < least:
        kind = name.partition("@")[0]
        raise PlanError(
            f"The budget {text} cannot be met by this model",
            expected=f"at least {kind}={_share(least, whole)} ({cost.shown(least)} of {cost.shown(whole)})",
            got=cost.shown(limit),
            fix="Raise the budget or start from a smaller model",
        )
    return Budget(cost, limit)


def smallest_plan(plan: ShapePlan) -> ShapePlan:
    """Returns the least plan that pruning ``plan`` can reach: one head and 8 of every width."""
    block = BlockPlan(1, MULTIPLE, MULTIPLE, MULTIPLE)
    return replace(plan, embed_dim=MULTIPLE, blocks=(block,) * len(plan.blocks))


def _read(text: str) -> tuple[str, Fraction, int | None]:
    """Returns the cost's name, the number, and its unit; without one the number is a share."""
    count = re.fullmatch(rf"(params|macs)={_NUMBER}([KMG]?)", text.strip())
    time = re.fullmatch(rf"latency={_NUMBER}(us|ms|s|)@(\S+)", text.strip())
    match = count or time
    value = Fraction(match[2] if count else match[1]) if match else Fraction(0)
    if match is None or value <= 0:
        raise PlanError("That is not a budget", expected=_EXAMPLES, got=repr(text))
    if count:
        return match[1], value, None if not match[3] and value <= 1 else _UNITS[match[3]]
    if not match[2] and value > 1:
        raise PlanError("A time needs its unit", expected="us, ms or s, as in latency=12ms@cpu", got=repr(text))
    return f"latency@{match[3]}", value, _TIMES[match[2]] if match[2] else None


def _share(part: int, whole: int) -> str:
    """Formats a share rounded up, so that what the message names can be met."""
    return f"{-(-part * 10**4 // whole) / 10**4:.4f}"
