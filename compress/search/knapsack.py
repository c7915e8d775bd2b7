"""The multiple-choice knapsack: choose one option of every group for the least total loss within a total cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from runtime import PlanError, quiet

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_TIME_LIMIT_S = 120.0
"""Time limit of one integer program; most take milliseconds to seconds."""

_OBJECTIVE = 1e4
"""Losses are scaled to about this total, since HiGHS stops at an absolute gap of 1e-6."""


class Knapsack:
    """A knapsack with its Lagrangian relaxation.

    Args:
        losses: loss of every option, ``(options,)`` for each group.
        costs: cost of every option, ``(options,)`` for each group; the cheapest options together cost 0.
        room: highest total cost, at least 0.

    Attributes:
        bound: lower bound of the loss of every choice.
        near: loss of a good choice that fits, and the choice as an option number for each group.
    """

    def __init__(self, losses: Sequence[Floats], costs: Sequence[Ints], room: int) -> None:
        self.room = room
        own = [_undominated(loss, cost) for loss, cost in zip(losses, costs, strict=True)]
        shape = len(own), max(len(options) for options in own)
        self.options = np.zeros(shape, dtype=np.int64)  # option numbers, padded by options of infinite loss
        self.losses = np.full(shape, np.inf)
        self.costs = np.zeros(shape, dtype=np.int64)
        for g, options in enumerate(own):
            self.options[g, : len(options)] = options
            self.losses[g, : len(options)] = losses[g][options]
            self.costs[g, : len(options)] = costs[g][options]
        self.rows = np.arange(len(own))
        self._relax()

    def _relax(self) -> None:
        """Finds the price of cost whose Lagrangian bound is highest.

        The bound is concave and piecewise linear in the price. Its maximum is found in a few steps, each from the
        crossing of two pieces to the piece below it.
        """
        over, fits = (
            self.losses.argmin(1),
            np.zeros(len(self.rows), dtype=np.int64),
        )  # the first option is the cheapest
        self.price, self.bound = 0.0, self._loss(over)
        while self._cost(over) > self.room:
            price = (self._loss(fits) - self._loss(over)) / (self._cost(over) - self._cost(fits))
            here = (self.losses + price * self.costs).argmin(1)
            bound = self._loss(here) + price * (self._cost(here) - self.room)
            if bound > self.bound:
                self.price, self.bound = price, bound
            if not self._cost(fits) < self._cost(here) < self._cost(over):
                break
            if self._cost(here) > self.room:
                over = here
            else:
                fits = here
        tries = [self._fill(fits), self._fill(self._mend(over))]
        picks = min(tries, key=self._loss)
        self.near = self._loss(picks), self._named(picks)

    def _loss(self, picks: Ints) -> float:
        return float(self.losses[self.rows, picks].sum())

    def _cost(self, picks: Ints) -> int:
        return int(self.costs[self.rows, picks].sum())

    def _named(self, picks: Ints) -> tuple[int, ...]:
        return tuple(self.options[self.rows, picks].tolist())

    def _mend(self, picks: Ints) -> Ints:
        """Makes a choice fit, step by step, by the change with the least loss per cost saved."""
        picks = picks.copy()
        while (excess := self._cost(picks) - self.room) > 0:
            saved = self.costs[self.rows, picks][:, None] - self.costs
            more = self.losses - self.losses[self.rows, picks][:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = np.where(saved > 0, more / np.minimum(saved, excess), np.inf)
            group, option = np.unravel_index(rate.argmin(), rate.shape)
            picks[group] = option
        return picks

    def _fill(self, picks: Ints) -> Ints:
        """Uses the remaining room, step by step, by the change with the largest gain."""
        picks = picks.copy()
        while True:
            change = self.losses - self.losses[self.rows, picks][:, None]
            extra = self.costs - self.costs[self.rows, picks][:, None]
            change[extra > self.room - self._cost(picks)] = np.inf
            group, option = np.unravel_index(change.argmin(), change.shape)
            if change[group, option] >= 0:
                return picks
            picks[group] = option

    def solve(self, cutoff: float) -> tuple[float, tuple[int, ...]] | None:
        """Returns the least loss and its choice; None when no choice loses less than ``cutoff``.

        Options whose reduced cost lifts the bound to the cutoff, or whose loss alone exceeds it, are left out first.

        Raises:
            PlanError: the integer program ended without an answer.
        """
        priced = self.losses + self.price * self.costs
        reduced = priced - priced.min(1, keepdims=True)
        margin = 1e-12 * (abs(cutoff) + self.price * self.room)
        useful = (self.bound + reduced <= cutoff + margin) & (self.losses <= cutoff)
        groups, options = np.nonzero(useful)
        if not useful.any(1).all():
            return None
        first = np.searchsorted(groups, self.rows)[1:]
        losses, costs = (np.split(values[groups, options], first) for values in (self.losses, self.costs))
        found = pick_one_each(losses, costs, -math.inf, self.room, scale=_OBJECTIVE / cutoff)
        if found is None:
            return None
        picks = np.array([own[pick] for own, pick in zip(np.split(options, first), found, strict=True)])
        return self._loss(picks), self._named(picks)


def pick_one_each(
    losses: Sequence[Floats], costs: Sequence[Ints], low: float, high: int, *, scale: float = 1.0
) -> tuple[int, ...] | None:
    """Picks one option of every group, for the least total loss at a total cost from ``low`` to ``high``.

    Solved as an integer program. HiGHS may overstep a bound by its tolerance; then that choice is excluded and the
    program is solved again.

    Args:
        losses: loss of every option, ``(options,)`` for each group.
        costs: cost of every option, ``(options,)`` for each group.
        low: lowest total cost, inclusive; minus infinity for no bound.
        high: highest total cost, inclusive.
        scale: factor of the losses, since HiGHS stops at an absolute gap of 1e-6.

    Returns:
        The index of the option in every group; None where no choice has such a cost.

    Raises:
        PlanError: the integer program ended without an answer.
    """
    # without the least loss and cost of every group the numbers are small and exact
    rest_of_loss = np.concatenate([loss - loss.min() for loss in losses])
    rest_of_cost = np.concatenate([cost - cost.min() for cost in costs])
    least_cost, unit = sum(int(cost.min()) for cost in costs), max(1, int(np.gcd.reduce(rest_of_cost)))
    room = (high - least_cost) // unit
    if room < 0:
        return None
    sizes = [len(loss) for loss in losses]
    least = -math.inf if low == -math.inf else -(-(int(low) - least_cost) // unit)
    constraints = [
        LinearConstraint(np.repeat(np.eye(len(sizes)), sizes, axis=1), 1, 1),
        LinearConstraint((rest_of_cost // unit)[None].astype(float), least, room),
    ]
    while True:
        with quiet():  # HiGHS prints lines at times
            answer = milp(
                scale * rest_of_loss,
                integrality=np.ones(len(rest_of_loss)),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={"mip_rel_gap": 0, "time_limit": _TIME_LIMIT_S},
            )
        if answer.status == 2:
            return None
        if answer.status != 0:
            raise PlanError(
                "The integer program of the budget could not be solved",
                got=answer.message.rstrip("."),
                fix="Choose larger groups, change the budget a little, or prune in one shot",
            )
        taken = answer.x > 0.5
        picks = tuple(int(part.argmax()) for part in np.split(taken, np.cumsum(sizes)[:-1]))
        if low <= sum(int(cost[pick]) for cost, pick in zip(costs, picks, strict=True)) <= high:
            return picks
        constraints.append(LinearConstraint(taken[None].astype(float), -np.inf, len(sizes) - 1))


def _undominated(losses: Floats, costs: Ints) -> Ints:
    """Returns the options that lose less than every cheaper option, cheapest first."""
    order = np.lexsort((losses, costs))
    before = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
    return order[losses[order] < before]
