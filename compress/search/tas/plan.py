"""From learned odds to one plan: the most likely one whose cost is where it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.search.knapsack import Floats, Ints, pick_one_each

from .candidates import DEPTH, EMBED, Candidates, Choice
from .cost import CostTable

_LEAST_ODDS = 1e-12
"""Candidates less likely than this are all alike."""


@dataclass(frozen=True)
class _Option:
    """An embed_dim and a depth, by index; what is given up by taking them; and what is left to choose."""

    embed: int
    depth: int
    loss: float


def most_likely(
    candidates: Candidates, odds: Mapping[Choice, Floats], table: CostTable, low: int, high: int
) -> dict[Choice, int] | None:
    """Returns the choices that give up the least likelihood for a cost from ``low`` to ``high``; None where none does.

    What a choice gives up is ``log max p - log p`` of its candidate, so the most likely candidate of each is taken
    where their cost fits, and otherwise as little is changed as can be. Of blocks that go, nothing is given up.
    Exact: for every embed_dim and depth an integer program, in the order of what those alone give up.

    Args:
        candidates: candidates of every choice.
        odds: for every choice, the probabilities of its candidates.
        table: their costs.
        low: the least the plan may cost.
        high: the most.

    Raises:
        PlanError: an integer program could not be solved.
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
    """Returns the most likely candidate of every choice, of equals the largest."""
    return {choice: widths[_last_least(-odds[choice])] for choice, widths in candidates.items()}


def _given_up(odds: Floats) -> Floats:
    logs = np.log(np.maximum(odds, _LEAST_ODDS))
    return np.asarray(logs.max() - logs, dtype=np.float64)


def _within(
    losses: Sequence[Floats], costs: Sequence[Ints], low: int, high: int, cutoff: float
) -> tuple[int, ...] | None:
    """Picks one of every group for the least loss below ``cutoff``, at a total cost from ``low`` to ``high``."""
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
