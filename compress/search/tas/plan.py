"""Finds the most likely plan of learnt odds whose cost is within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.search.knapsack import Floats, Ints, pick_one_each

from .candidates import DEPTH, EMBED, Candidates, Choice
from .cost import CostTable

_LEAST_ODDS = 1e-12
"""Lower limit of odds, below which candidates count as equally unlikely."""


@dataclass(frozen=True)
class _Option:
    """An embed_dim and a depth by index, and the likelihood lost by taking them."""

    embed: int
    depth: int
    loss: float


def most_likely(
    candidates: Candidates, odds: Mapping[Choice, Floats], table: CostTable, low: int, high: int
) -> dict[Choice, int] | None:
    """Returns the choices with the least loss of likelihood for a cost from ``low`` to ``high``; None where none fits.

    The loss of a choice is ``log max p - log p`` of its candidate, so that the most likely candidates are taken where
    their cost fits. Removed blocks lose nothing. The result is exact: there is an integer program for every embed_dim
    and depth, in the order of the loss of these two.

    Args:
        candidates: candidates of every choice.
        odds: probabilities of every choice's candidates.
        table: costs of the candidates.
        low: lowest cost of the plan, inclusive.
        high: highest cost of the plan, inclusive.

    Raises:
        PlanError: an integer program cannot be solved.
    """
    losses = {choice: _given_up(p) for choice, p in odds.items()}
    options = sorted(
        (
            _Option(c, d, float(losses[EMBED][c] + losses[DEPTH][d]))
            for c in reversed(range(len(candidates[EMBED])))
            for d in reversed(range(len(candidates[DEPTH])))
        ),
        key=lambda option: option.loss,
    )
    best, found = math.inf, None
    for option in options:
        if option.loss >= best:
            break
        blocks = list(table.blocks(option.embed, option.depth))
        base = int(table.ends[option.embed, option.depth])
        own, costs = [losses[choice] for choice, _ in blocks], [extra for _, extra in blocks]
        picks = _within(own, costs, low - base, high - base, best - option.loss)
        if picks is not None:
            best = option.loss + sum(float(loss[pick]) for loss, pick in zip(own, picks, strict=True))
            found = {EMBED: candidates[EMBED][option.embed], DEPTH: candidates[DEPTH][option.depth]}
            found |= {choice: candidates[choice][pick] for (choice, _), pick in zip(blocks, picks, strict=True)}
    return found


def argmax_plan(candidates: Candidates, odds: Mapping[Choice, Floats]) -> dict[Choice, int]:
    """Returns the most likely candidate of every choice, the largest among equals."""
    return {choice: widths[_last_least(-odds[choice])] for choice, widths in candidates.items()}


def _given_up(odds: Floats) -> Floats:
    logs = np.log(np.maximum(odds, _LEAST_ODDS))
    return np.asarray(logs.max() - logs, dtype=np.float64)


def _within(
    losses: Sequence[Floats], costs: Sequence[Ints], low: int, high: int, cutoff: float
) -> tuple[int, ...] | None:
    """Picks one option of every group for the least loss below ``cutoff``, at a total cost from ``low`` to ``high``."""
    picks = tuple(map(_last_least, losses))
    if low <= _total(costs, picks) <= high:
        return picks
    if sum(int(c.max()) for c in costs) < low or sum(int(c.min()) for c in costs) > high:
        return None
    found = pick_one_each(losses, costs, low, high)
    if found is None or sum(float(loss[pick]) for loss, pick in zip(losses, found, strict=True)) >= cutoff:
        return None
    return found


def _last_least(values: Floats) -> int:
    return len(values) - 1 - int(np.argmin(values[::-1]))


def _total(costs: Sequence[Ints], picks: Sequence[int]) -> int:
    return sum(int(cost[pick]) for cost, pick in zip(costs, picks, strict=True))
