"""The budgeted global solver: every width of every block chosen at once, exactly, as a multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from compress.budget import Budget
from compress.importance.units import BlockImportance, Importance, check_finite
from compress.model.slicing import BlockKept, Kept, keep_all, plan_of
from runtime import BlockPlan, PlanError, Progress, ShapePlan, quiet, silent

from .base import GroupSizes, Proposal, SearchInputs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_EXACT = 1e-10
"""Two losses this near, relative to the larger, are equal."""

_TIME_LIMIT_S = 120.0
"""The most one integer program may take; they take milliseconds to seconds."""

_OBJECTIVE = 1e4
"""Integer programs are scaled to about this loss: HiGHS stops at an absolute gap of 1e-6."""


def choose(inputs: SearchInputs) -> Proposal:
    """Chooses units by ``solve``."""
    plan, importance, budget = inputs.model.plan, inputs.take_importance(), inputs.required_budget
    return solve(plan, importance, budget, keep_all(plan), inputs.groups, progress=inputs.progress)


def solve(
    plan: ShapePlan,
    importance: Importance,
    budget: Budget,
    start: Kept,
    sizes: GroupSizes | None = None,
    *,
    progress: Progress = silent,
) -> Proposal:
    """Chooses the plan within the budget that loses the least importance in total.

    Importance is additive: what is lost is the sum over all removed units, those of the stream included, and a unit's
    importance does not change with what else is removed. Cost is additive over the attentions and MLPs of all blocks
    once embed_dim is fixed, and only in the last block may equal widths cost something else. So for each embed_dim it
    is a multiple-choice knapsack: one option (num_heads, qk_dim, v_dim) for each attention and one mlp_dim for each
    MLP, solved as an integer program. An embed_dim whose Lagrangian bound is no better than the best plan known is
    not solved.

    Of every width the most important units stay, each head its own, and the heads that stay are those of the
    largest importance at the chosen widths. The last head and the last group of a width stay. The result is
    the least to 1e-9 of its loss.

    Args:
        plan: of the model to prune.
        importance: of its units.
        budget: what to get down to.
        start: what is kept to begin with (``keep_all(plan)``); with it within the budget, nothing is removed.
        sizes: the steps widths are reduced in.
        progress: told after every candidate embed_dim.

    Returns:
        The plan, and as its steps the embed_dim (``embed``, block -1) and then each block (``block``), with the
        widths chosen there, the importance lost there and the cost of the model from there on.

    Raises:
        PlanError: no plan of these group sizes meets the budget, an importance is not finite, or the integer
            program could not be solved.

    Ref: Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem; Fisher 1981, the Lagrangian bound.
    """
    check_finite(importance)
    sizes = sizes or GroupSizes()
    whole = plan_of(plan, start)
    if budget.of(whole) <= budget.limit:
        return Proposal(whole, start, ())
    embed = _rank((start.embed,), importance.embed[None])
    blocks = [_Block.of(keep, scores) for keep, scores in zip(start.blocks, importance.blocks, strict=True)]
    groups = [
        group
        for block, widths in zip(blocks, whole.blocks, strict=True)
        for group in (block.attention(widths, sizes), block.mlps(widths, sizes))
    ]
    embed_dims = _steps(whole.embed_dim, sizes.embed)
    embeds = [(width, float(embed.lost[0, whole.embed_dim - width])) for width in embed_dims]
    least = replace(whole, blocks=tuple(_least(widths, sizes) for widths in whole.blocks))
    _check_reachable(budget, replace(least, embed_dim=embed_dims[-1]))

    (embed_dim, embed_lost), picks = _search(least, budget, embeds, groups, progress)
    options = [group.options[pick] for group, pick in zip(groups, picks, strict=True)]
    losses = [float(group.losses[pick]) for group, pick in zip(groups, picks, strict=True)]
    pairs = zip(options[::2], options[1::2], strict=True)
    chosen = [replace(attention, mlp_dim=mlp.mlp_dim) for attention, mlp in pairs]
    kept = Kept(embed.keep(0, embed_dim), tuple(b.keep(w) for b, w in zip(blocks, chosen, strict=True)))
    result = plan_of(plan, kept)
    assert budget.of(result) <= budget.limit, "the cost of the parts is not that of the whole"
    lost = [a + m for a, m in zip(losses[::2], losses[1::2], strict=True)]
    return Proposal(result, kept, _journal(whole, result, budget, embed_lost, lost))


def _search(
    least: ShapePlan,
    budget: Budget,
    embeds: Sequence[tuple[int, float]],
    groups: Sequence[_Group],
    progress: Progress,
) -> tuple[tuple[int, float], tuple[int, ...]]:
    """Returns the best of ``embeds`` (embed_dim, importance lost; losing ever more) and an option of every group."""
    knapsacks = []
    best: tuple[float, tuple[int, float], tuple[int, ...]] = np.inf, embeds[0], ()
    for embed in embeds:
        embed_dim, lost = embed
        if not _better(lost, best[0]):
            break
        plan = replace(least, embed_dim=embed_dim)
        room = budget.limit - budget.of(plan)
        if room >= 0:
            knapsack = _Knapsack([group.losses for group in groups], _costs(plan, groups, budget), room)
            knapsacks.append((lost + knapsack.bound, embed, knapsack))
            if _better(lost + knapsack.near[0], best[0]):
                best = lost + knapsack.near[0], embed, knapsack.near[1]
    knapsacks.sort(key=lambda candidate: candidate[0])
    for done, (bound, embed, knapsack) in enumerate(knapsacks, 1):
        if _better(bound, best[0]):
            found = knapsack.solve(best[0] - embed[1])
            if found is not None and _better(embed[1] + found[0], best[0]):
                best = embed[1] + found[0], embed, found[1]
        progress("solve", done, len(knapsacks), f"embed_dim {best[1][0]}, importance lost {best[0]:.4g}")
    return best[1], best[2]


def _journal(
    whole: ShapePlan, result: ShapePlan, budget: Budget, embed_lost: float, lost: Sequence[float]
) -> tuple[dict[str, Any], ...]:
    """Returns the decisions one after the other, as if the blocks were cut first to last."""
    now = replace(whole, embed_dim=result.embed_dim)
    steps: list[dict[str, Any]] = [
        {"action": "embed", "block": -1, "embed_dim": now.embed_dim, "importance": embed_lost, "cost": budget.of(now)}
    ]
    for i, block in enumerate(result.blocks):
        now = now.with_block(i, block)
        steps.append(
            {"action": "block", "block": i, **asdict(block), "importance": lost[i], "cost": budget.of(now)},
        )
    return tuple(steps)


def _better(loss: float, than: float) -> bool:
    return loss < than * (1 - _EXACT)


def _check_reachable(budget: Budget, smallest: ShapePlan) -> None:
    least = budget.of(smallest)
    if least > budget.limit:
        raise budget.unreachable(least)


def _steps(width: int, size: int) -> range:
    """Returns the widths that can be reached from ``width``, largest first."""
    return range(width, 0, -size)


def _least(block: BlockPlan, sizes: GroupSizes) -> BlockPlan:
    return BlockPlan(
        1,
        _steps(block.qk_dim, sizes.qk)[-1],
        _steps(block.v_dim, sizes.v)[-1],
        _steps(block.mlp_dim, sizes.mlp)[-1],
    )


@dataclass(frozen=True)
class _Ranked:
    """Units in the order they go, row by row: one row per head, or one in all.

    Attributes:
        units: ``(R, N)`` as indices into the model, the least important first.
        lost: ``(R, N + 1)`` importance of the k least important.
        kept: ``(R, N + 1)`` importance of the k most important.
    """

    units: Ints
    lost: Floats
    kept: Floats

    def keep(self, row: int, width: int) -> tuple[int, ...]:
        """Returns the most important units of a row, sorted."""
        return tuple(sorted(self.units[row, self.units.shape[1] - width :].tolist()))


def _rank(units: Sequence[Sequence[int]], scores: Floats) -> _Ranked:
    """Ranks the ``units`` there are of each row of ``scores``; of equals the later goes first."""
    indices = np.array(units, dtype=np.int64)
    own = np.take_along_axis(scores, indices, axis=1)
    order = np.lexsort((-indices, own), axis=1)
    ascending = np.take_along_axis(own, order, axis=1)
    pad = ((0, 0), (1, 0))
    return _Ranked(
        np.take_along_axis(indices, order, axis=1),
        np.pad(np.cumsum(ascending, axis=1), pad),
        np.pad(np.cumsum(ascending[:, ::-1], axis=1), pad),
    )


@dataclass(frozen=True)
class _Group:
    """One choice: the options of an attention or an MLP, each with the importance it loses.

    Attributes:
        options: the widths, those of the other part at their least.
        losses: ``(len(options),)``.
    """

    options: tuple[BlockPlan, ...]
    losses: Floats


@dataclass(frozen=True)
class _Block:
    """The units of one block, ranked."""

    heads: tuple[int, ...]
    qk: _Ranked
    v: _Ranked
    mlp: _Ranked

    @classmethod
    def of(cls, keep: BlockKept, scores: BlockImportance) -> _Block:
        """Ranks the units of ``keep``."""
        heads = list(keep.heads)
        return cls(
            keep.heads,
            _rank(keep.qk, scores.qk[heads]),
            _rank(keep.v, scores.v[heads]),
            _rank((keep.mlp,), scores.mlp[None]),
        )

    def attention(self, widths: BlockPlan, sizes: GroupSizes) -> _Group:
        """Returns every (num_heads, qk_dim, v_dim), for each the heads kept that lose the least."""
        qk, v = _steps(widths.qk_dim, sizes.qk), _steps(widths.v_dim, sizes.v)
        kept = self.qk.kept[:, list(qk), None] + self.v.kept[:, None, list(v)]  # (H, qk, v)
        gone_qk = self.qk.lost[:, [widths.qk_dim - width for width in qk]].sum(0)
        gone_v = self.v.lost[:, [widths.v_dim - width for width in v]].sum(0)
        gone_heads = np.cumsum(np.sort(kept, axis=0)[:-1], axis=0)  # of 1, 2 ... H - 1 heads
        losses = np.pad(gone_heads, ((1, 0), (0, 0), (0, 0))) + gone_qk[:, None] + gone_v
        heads = range(widths.num_heads, 0, -1)
        mlp = _least(widths, sizes).mlp_dim
        return _Group(tuple(BlockPlan(h, q, w, mlp) for h, q, w in product(heads, qk, v)), losses.reshape(-1))

    def mlps(self, widths: BlockPlan, sizes: GroupSizes) -> _Group:
        """Returns every mlp_dim."""
        least, mlp = _least(widths, sizes), _steps(widths.mlp_dim, sizes.mlp)
        losses = self.mlp.lost[0, [widths.mlp_dim - width for width in mlp]]
        return _Group(tuple(replace(least, mlp_dim=width) for width in mlp), losses)

    def keep(self, widths: BlockPlan) -> BlockKept:
        """Returns the most important units at these widths; of equal heads the first goes."""
        kept = self.qk.kept[:, widths.qk_dim] + self.v.kept[:, widths.v_dim]
        rows = sorted(np.argsort(kept, kind="stable")[len(kept) - widths.num_heads :].tolist())
        return BlockKept(
            tuple(self.heads[row] for row in rows),
            tuple(self.qk.keep(row, widths.qk_dim) for row in rows),
            tuple(self.v.keep(row, widths.v_dim) for row in rows),
            self.mlp.keep(0, widths.mlp_dim),
        )


def _costs(plan: ShapePlan, groups: Sequence[_Group], budget: Budget) -> list[Ints]:
    """Returns what each option costs in ``plan`` over the least of its group, its last; blocks often share them.

    Equal widths cost the same in all blocks but the last: of that, what ships computes only what the head reads.
    """
    known: dict[tuple[bool, tuple[BlockPlan, ...]], Ints] = {}
    places = [(number >= len(groups) - 2, group.options) for number, group in enumerate(groups)]
    for place in places:
        if place not in known:
            last, options = place
            after = () if last else plan.blocks[-1:]
            costs = [budget.of(replace(plan, blocks=(option, *after))) for option in options]
            known[place] = np.array(costs, dtype=np.int64) - costs[-1]
    return [known[place] for place in places]


class _Knapsack:
    """One option of every group, of least total loss, for at most ``room`` of cost.

    Args:
        losses: ``(options,)`` of every group.
        costs: ``(options,)`` of every group; the cheapest options together cost nothing.
        room: at least 0.

    Attributes:
        bound: no choice loses less.
        near: the loss of a good choice that fits, and the choice.
    """

    def __init__(self, losses: Sequence[Floats], costs: Sequence[Ints], room: int) -> None:
        self.room = room
        own = [_undominated(loss, cost) for loss, cost in zip(losses, costs, strict=True)]
        shape = len(own), max(len(options) for options in own)
        self.options = np.zeros(shape, dtype=np.int64)  # numbers of the options, padded by ones that lose all
        self.losses = np.full(shape, np.inf)
        self.costs = np.zeros(shape, dtype=np.int64)
        for g, options in enumerate(own):
            self.options[g, : len(options)] = options
            self.losses[g, : len(options)] = losses[g][options]
            self.costs[g, : len(options)] = costs[g][options]
        self.rows = np.arange(len(own))
        self._relax()

    def _relax(self) -> None:
        """Finds the best price of cost: every price bounds the loss, and at it the two nearest choices meet.

        The dual of the linear relaxation: concave and piecewise linear in the price, so its top is found in a
        few steps from the crossing of two of its pieces to the piece below that crossing.
        """
        over, fits = self.losses.argmin(1), np.zeros(len(self.rows), dtype=np.int64)  # of each the cheapest is first
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
        """Makes a choice fit, each time by the change that loses the least for the cost it saves."""
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
        """Uses up what room is left, each time by the one change that gains the most."""
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
        """Returns the least loss and its choice, or None when none loses less than ``cutoff``.

        An option whose reduced cost lifts the bound to the cutoff is in no better choice, and is left out;
        so is one that loses more than the cutoff by itself.

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
        losses, costs = self.losses[groups, options], self.costs[groups, options]
        # The least loss and cost of every group are taken out, so that what is left is small and exact.
        first = np.searchsorted(groups, self.rows)
        least_loss, least_cost = np.minimum.reduceat(losses, first), np.minimum.reduceat(costs, first)
        rest = costs - least_cost[groups]
        unit = max(int(np.gcd.reduce(rest)), 1)
        room = (self.room - int(least_cost.sum())) // unit
        if room < 0:
            return None
        scale = _OBJECTIVE / cutoff
        one_each = (groups == self.rows[:, None]).astype(float)
        constraints = [
            LinearConstraint(one_each, 1, 1),
            LinearConstraint((rest // unit)[None].astype(float), -np.inf, room),
        ]
        while True:
            with quiet():  # HiGHS now and then prints a line of its own
                answer = milp(
                    scale * (losses - least_loss[groups]),
                    integrality=np.ones(len(losses)),
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
            picks = options[taken]
            if self._cost(picks) <= self.room:
                return self._loss(picks), self._named(picks)
            # Over by HiGHS's tolerance: ask again for any other choice.
            constraints.append(LinearConstraint(taken[None].astype(float), -np.inf, len(self.rows) - 1))


def _undominated(losses: Floats, costs: Ints) -> Ints:
    """Returns the options that lose less than every cheaper one, cheapest first."""
    order = np.lexsort((losses, costs))
    before = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
    return order[losses[order] < before]
