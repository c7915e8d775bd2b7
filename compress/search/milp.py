"""The search method ``milp``: chooses every width of every block at once, exactly, as a multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from compress.budget import Budget
from compress.importance.units import BlockImportance, Importance, LostImportance, check_finite_importance
from compress.model.slicing import KeptBlock, KeptUnits, keep_all, plan_of
from runtime import BlockPlan, Progress, ShapePlan, silent

from .base import GroupSizes, Proposal, SearchInputs
from .knapsack import Floats, Ints, Knapsack
from .steps import width_steps

_EXACT = 1e-10
"""Two losses this near, relative to the larger, are equal."""


def choose(inputs: SearchInputs) -> Proposal:
    """Chooses units by ``solve``."""
    plan, importance, budget = inputs.model.plan, inputs.take_importance(), inputs.required_budget
    return solve(plan, importance, budget, keep_all(plan), inputs.groups, progress=inputs.progress)


def solve(
    plan: ShapePlan,
    importance: Importance,
    budget: Budget,
    start: KeptUnits,
    sizes: GroupSizes | None = None,
    *,
    progress: Progress = silent,
) -> Proposal:
    """Chooses the plan within the budget with the least total loss of importance.

    Importance is additive over all removed units, including those of the residual stream. For a fixed embed_dim, cost
    is additive over the attentions and MLPs of all blocks, and equal widths have equal costs in all blocks but the
    last. So each embed_dim is a multiple-choice knapsack with one option (num_heads, qk_dim, v_dim) for each attention
    and one mlp_dim for each MLP, which is solved as an integer program. An embed_dim whose Lagrangian bound is no
    better than the best known plan is skipped.

    Each head keeps its most important units, and the heads with the largest importance at the chosen widths are kept.
    The last head and the last group of a width are never removed. The loss is the least to a relative 1e-9.

    Args:
        plan: plan of the model to prune.
        importance: importance of its units.
        budget: the budget to meet.
        start: units that are there to begin with (``keep_all(plan)``); nothing is removed if they meet the budget.
        sizes: steps in which widths are reduced.
        progress: called after every candidate embed_dim.

    Returns:
        The plan, with the steps of ``width_steps``.

    Raises:
        PlanError: no plan with these group sizes meets the budget, an importance is not finite, or the integer program
            cannot be solved.

    Ref: Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem; Fisher 1981, The Lagrangian Relaxation Method.
    """
    check_finite_importance(importance)
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
    kept = KeptUnits(embed.keep(0, embed_dim), tuple(b.keep(w) for b, w in zip(blocks, chosen, strict=True)))
    result = plan_of(plan, kept)
    assert budget.of(result) <= budget.limit, "the costs of the parts do not add up"
    lost = tuple(a + m for a, m in zip(losses[::2], losses[1::2], strict=True))
    return Proposal(result, kept, width_steps(whole, result, budget, LostImportance(embed_lost, 0.0, lost)))


def _search(
    least: ShapePlan,
    budget: Budget,
    embeds: Sequence[tuple[int, float]],
    groups: Sequence[_Group],
    progress: Progress,
) -> tuple[tuple[int, float], tuple[int, ...]]:
    """Returns the best of ``embeds`` (embed_dim and loss, in ascending loss) and an option number of every group."""
    knapsacks = []
    best: tuple[float, tuple[int, float], tuple[int, ...]] = np.inf, embeds[0], ()
    for embed in embeds:
        embed_dim, lost = embed
        if not _better(lost, best[0]):
            break
        plan = replace(least, embed_dim=embed_dim)
        room = budget.limit - budget.of(plan)
        if room >= 0:
            knapsack = Knapsack([group.losses for group in groups], _costs(plan, groups, budget), room)
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


def _better(loss: float, than: float) -> bool:
    return loss < than * (1 - _EXACT)


def _check_reachable(budget: Budget, smallest: ShapePlan) -> None:
    least = budget.of(smallest)
    if least > budget.limit:
        raise budget.unreachable(least)


def _steps(width: int, size: int) -> range:
    """Returns the widths reachable from ``width``, largest first."""
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
    """Units in the order of their removal; there is one row per head, or a single row.

    Attributes:
        units: ``(R, N)`` indices into the model, the least important first.
        lost: ``(R, N + 1)`` total importance of the k least important units, for k from 0 to N.
        kept: ``(R, N + 1)`` total importance of the k most important units.
    """

    units: Ints
    lost: Floats
    kept: Floats

    def keep(self, row: int, width: int) -> tuple[int, ...]:
        """Returns the ``width`` most important units of a row, as sorted indices."""
        return tuple(sorted(self.units[row, self.units.shape[1] - width :].tolist()))


def _rank(units: Sequence[Sequence[int]], scores: Floats) -> _Ranked:
    """Ranks the ``units`` of each row of ``scores``; among equals the later unit is removed first."""
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
    """The options of an attention or an MLP, with the importance that each loses.

    Attributes:
        options: widths of the block, with the other part at its smallest widths.
        losses: importance lost, ``(len(options),)``.
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
    def of(cls, keep: KeptBlock, scores: BlockImportance) -> _Block:
        """Ranks the units of ``keep``."""
        heads = list(keep.heads)
        return cls(
            keep.heads,
            _rank(keep.qk, scores.qk[heads]),
            _rank(keep.v, scores.v[heads]),
            _rank((keep.mlp,), scores.mlp[None]),
        )

    def attention(self, widths: BlockPlan, sizes: GroupSizes) -> _Group:
        """Returns every (num_heads, qk_dim, v_dim), with the loss of keeping the best heads."""
        qk, v = _steps(widths.qk_dim, sizes.qk), _steps(widths.v_dim, sizes.v)
        kept = self.qk.kept[:, list(qk), None] + self.v.kept[:, None, list(v)]  # (H, qk, v)
        gone_qk = self.qk.lost[:, [widths.qk_dim - width for width in qk]].sum(0)
        gone_v = self.v.lost[:, [widths.v_dim - width for width in v]].sum(0)
        gone_heads = np.cumsum(np.sort(kept, axis=0)[:-1], axis=0)  # loss of 1, 2 ... H - 1 heads
        losses = np.pad(gone_heads, ((1, 0), (0, 0), (0, 0))) + gone_qk[:, None] + gone_v
        heads = range(widths.num_heads, 0, -1)
        mlp = _least(widths, sizes).mlp_dim
        return _Group(tuple(BlockPlan(h, q, w, mlp) for h, q, w in product(heads, qk, v)), losses.reshape(-1))

    def mlps(self, widths: BlockPlan, sizes: GroupSizes) -> _Group:
        """Returns every mlp_dim."""
        least, mlp = _least(widths, sizes), _steps(widths.mlp_dim, sizes.mlp)
        losses = self.mlp.lost[0, [widths.mlp_dim - width for width in mlp]]
        return _Group(tuple(replace(least, mlp_dim=width) for width in mlp), losses)

    def keep(self, widths: BlockPlan) -> KeptBlock:
        """Returns the most important units at these widths; among equal heads the first is removed."""
        kept = self.qk.kept[:, widths.qk_dim] + self.v.kept[:, widths.v_dim]
        rows = sorted(np.argsort(kept, kind="stable")[len(kept) - widths.num_heads :].tolist())
        return KeptBlock(
            tuple(self.heads[row] for row in rows),
            tuple(self.qk.keep(row, widths.qk_dim) for row in rows),
            tuple(self.v.keep(row, widths.v_dim) for row in rows),
            self.mlp.keep(0, widths.mlp_dim),
        )


def _costs(plan: ShapePlan, groups: Sequence[_Group], budget: Budget) -> list[Ints]:
    """Returns the cost of each option in ``plan`` minus that of its group's last and cheapest option.

    Equal widths have equal costs in all blocks but the last, of which exported files compute only what the head reads.
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
