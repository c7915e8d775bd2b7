"""Costs and budgets of a model: parameters, MACs, or milliseconds on a target."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
    """A way to count the cost of a plan.

    Attributes:
        name: ``params``, ``macs`` or ``latency@TARGET``.
        of: returns the cost of a plan; latency is in nanoseconds. The cost is additive over the blocks of plans with
            the same embed_dim.
    """

    name: str
    of: Callable[[ShapePlan], int]

    @property
    def uneven(self) -> bool:
        """Whether equal steps of a width save unequal amounts, some of them nothing, as is the case for time."""
        return self.name.startswith("latency")

    def budget(self, value: int) -> str:
        """Returns the text of a budget of ``value`` for ``parse_budget``; times are rounded up to microseconds."""
        if not self.uneven:
            return f"{self.name}={value}"
        return f"latency={-(-value // 1000) / 1000:.3f}ms@{latency_target(self.name)}"

    def shown(self, value: int) -> str:
        """Formats a cost for people: a number, or milliseconds."""
        return f"{value / 1e6:.3f}ms" if self.uneven else f"{value:,}"


COUNTS = {"params": Cost("params", params), "macs": Cost("macs", macs)}
"""Costs that need no measurement, by name."""


@dataclass(frozen=True)
class Budget:
    """The highest cost that a model may have.

    Attributes:
        cost: the cost that is limited.
        limit: the highest value, inclusive.
    """

    cost: Cost
    limit: int

    def of(self, plan: ShapePlan) -> int:
        """Returns the cost of ``plan`` in this budget's unit."""
        return self.cost.of(plan)

    def unreachable(self, least: int) -> PlanError:
        """Returns the error for a search whose cheapest plan costs ``least``."""
        return PlanError(
            "The budget cannot be met with these group sizes",
            expected=f"at least {self.cost.budget(least)}",
            got=self.cost.budget(self.limit),
            fix="Raise the budget or choose smaller groups",
        )

    @property
    def floor(self) -> float:
        """The lowest cost that a result should have: 2 % below the limit; less would give away accuracy for nothing."""
        return 0.98 * self.limit


def parse_cost(text: str, baseline: ShapePlan, tables: Tables | None = None) -> Cost:
    """Reads ``params``, ``macs`` or ``latency@TARGET``.

    Raises:
        PlanError: the text names no cost, or the latency table of the target is missing or of another architecture.
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
    """Returns the target of ``latency@TARGET``; None for costs that are not times."""
    match = re.fullmatch(r"latency@(\S+)", name)
    return match[1] if match else None


def budget_cost(text: str) -> str:
    """Returns the name of the cost that a budget limits, without checking that the budget can be met.

    Raises:
        PlanError: the text is no budget.
    """
    return _read(text)[0]


def check_distinct(budgets: Sequence[str]) -> None:
    """Checks that texts are budgets and that no two state the same one, as ``macs=0.5`` and ``macs=0.50`` do.

    Raises:
        PlanError: there is no budget, a text is none, or a budget is there twice.
    """
    if isinstance(budgets, str) or not budgets or not all(isinstance(own, str) for own in budgets):
        raise PlanError(
            "These are no budgets", expected='a list of texts, such as ["macs=0.75", "macs=0.5"]', got=budgets
        )
    known: dict[tuple[str, Fraction, int | None], str] = {}
    for text in budgets:
        before = known.get(_read(text))
        if before is not None:
            raise PlanError("A budget is given twice", expected="each budget once", got=f"{before} and {text}")
        known[_read(text)] = text


def parse_budget(text: str, baseline: ShapePlan, tables: Tables | None = None) -> Budget:
    """Reads a budget.

    ``macs=0.75`` is a share of the baseline's cost, and ``macs=300M`` or ``params=4.1M`` is a number.
    ``latency=12ms@cpu`` (``us``, ``ms`` or ``s``) and ``latency=0.7@cpu`` are times on a target, as its latency table
    predicts them.

    Raises:
        PlanError: the text is no budget, the latency table is missing, or no plan can be that small; the error names
            the smallest budget that can be met.
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
    """Returns the smallest plan that pruning ``plan`` can reach: one head and 8 of every width."""
    block = BlockPlan(1, MULTIPLE, MULTIPLE, MULTIPLE)
    return replace(plan, embed_dim=MULTIPLE, blocks=(block,) * len(plan.blocks))


def _read(text: str) -> tuple[str, Fraction, int | None]:
    """Returns the cost's name, the number and its unit; the number is a share where the unit is None."""
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
    """Formats a share rounded up, so that the budget in an error text can be met."""
    return f"{-(-part * 10**4 // whole) / 10**4:.4f}"
