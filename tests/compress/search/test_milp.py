from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import compress.search.knapsack
from compress.budget import COUNTS, Budget, smallest_plan
from compress.importance.units import BlockImportance, Importance
from compress.model.slicing import KeptBlock, KeptUnits, keep_all, plan_of, slice_vit
from compress.search.base import GroupSizes, Proposal
from compress.search.milp import solve
from compress.search.one_shot import propose
from runtime import BlockPlan, PlanError, ShapePlan
from tests.compress.tiny import TINY_PLAN, tiny_vit

MID = replace(
    TINY_PLAN, embed_dim=64, blocks=(BlockPlan(4, 16, 24, 128), BlockPlan(2, 32, 16, 96), BlockPlan(3, 24, 24, 128))
)
VIT_S = ShapePlan((224, 224), (16, 16), 3, 1000, 384, (BlockPlan(6, 64, 64, 1536),) * 12, 0.125)


def random_importance(plan: ShapePlan, seed: int, levels: int | None = None) -> Importance:
    """Returns random importance, blocks of different weight; with ``levels``, of so few values that many are equal."""
    generator = np.random.default_rng(seed)

    def values(scale: float, *shape: int) -> Any:
        if levels is not None:
            return generator.integers(0, levels, shape) * 1.0
        return 1e-6 * scale * generator.gamma(0.5, size=shape)

    blocks = []
    for b in plan.blocks:
        scale = float(np.exp(generator.normal()))
        qk, v = values(scale, b.num_heads, b.qk_dim), values(2 * scale, b.num_heads, b.v_dim)
        blocks.append(BlockImportance(qk, v, values(scale, b.mlp_dim)))
    return Importance(values(4, plan.embed_dim), tuple(blocks))


def lost(importance: Importance, start: KeptUnits, kept: KeptUnits) -> float:
    """The sum over every unit of ``start`` that is not in ``kept``, one by one."""
    total = sum(importance.embed[d] for d in set(start.embed) - set(kept.embed))
    for before, after, scores in zip(start.blocks, kept.blocks, importance.blocks, strict=True):
        total += sum(scores.mlp[u] for u in set(before.mlp) - set(after.mlp))
        for values, dims, left in ((scores.qk, before.qk, after.qk), (scores.v, before.v, after.v)):
            rest = dict(zip(after.heads, left, strict=True))
            for head, own in zip(before.heads, dims, strict=True):
                total += sum(values[head, d] for d in set(own) - set(rest.get(head, ())))
    return float(total)


def assert_sound(
    plan: ShapePlan, importance: Importance, budget: Budget, start: KeptUnits, sizes: GroupSizes, found: Proposal
) -> None:
    whole = plan_of(plan, start)
    assert plan_of(plan, found.kept) == found.plan
    assert budget.of(found.plan) <= budget.limit
    for old, new in zip(whole.blocks, found.plan.blocks, strict=True):
        for width, before, size in (
            (new.qk_dim, old.qk_dim, sizes.qk),
            (new.v_dim, old.v_dim, sizes.v),
            (new.mlp_dim, old.mlp_dim, sizes.mlp),
        ):
            assert width % 8 == 0
            assert (before - width) % size == 0
    assert found.plan.embed_dim % 8 == 0
    assert (whole.embed_dim - found.plan.embed_dim) % sizes.embed == 0
    if not found.steps:
        assert found == Proposal(whole, start, ())
        return
    now = replace(whole, embed_dim=found.plan.embed_dim)
    first, *rest = found.steps
    assert (first["action"], first["block"], first["embed_dim"]) == ("embed", -1, now.embed_dim)
    assert first["cost"] == budget.of(now)
    for i, (step, block) in enumerate(zip(rest, found.plan.blocks, strict=True)):
        now = now.with_block(i, block)
        assert (step["action"], step["block"], step["cost"]) == ("block", i, budget.of(now))
        assert BlockPlan(step["num_heads"], step["qk_dim"], step["v_dim"], step["mlp_dim"]) == block
        alone = KeptUnits(start.embed, (*start.blocks[:i], found.kept.blocks[i], *start.blocks[i + 1 :]))
        assert step["importance"] == pytest.approx(lost(importance, start, alone), rel=1e-9, abs=1e-20)
    total = sum(step["importance"] for step in found.steps)
    assert total == pytest.approx(lost(importance, start, found.kept), rel=1e-9, abs=1e-20)
    json.dumps(found.steps, allow_nan=False)


def reachable(width: int, size: int) -> list[int]:
    widths = [width]
    while widths[-1] > size:
        widths.append(widths[-1] - size)
    return widths


def least_lost(values: Any, width: int) -> float:
    return float(sum(sorted(values)[: len(values) - width]))


def block_options(keep: KeptBlock, scores: BlockImportance, sizes: GroupSizes) -> Iterator[tuple[BlockPlan, float]]:
    """Every width of a block, with the least that any choice of heads loses, by trying each."""
    count = len(keep.heads)
    for qk, v in product(reachable(len(keep.qk[0]), sizes.qk), reachable(len(keep.v[0]), sizes.v)):
        own = [
            (scores.qk[head, list(dims_qk)], scores.v[head, list(dims_v)])
            for head, dims_qk, dims_v in zip(keep.heads, keep.qk, keep.v, strict=True)
        ]
        narrowed = [least_lost(a, qk) + least_lost(b, v) for a, b in own]
        gone = [float(a.sum() + b.sum()) for a, b in own]
        for heads in range(1, count + 1):
            attention = min(
                sum(narrowed[h] if h in left else gone[h] for h in range(count))
                for left in combinations(range(count), heads)
            )
            for mlp in reachable(len(keep.mlp), sizes.mlp):
                yield BlockPlan(heads, qk, v, mlp), attention + least_lost(scores.mlp[list(keep.mlp)], mlp)


def every_plan(
    plan: ShapePlan, importance: Importance, start: KeptUnits, sizes: GroupSizes
) -> Iterator[tuple[ShapePlan, float]]:
    per_block = [
        list(block_options(keep, scores, sizes)) for keep, scores in zip(start.blocks, importance.blocks, strict=True)
    ]
    for embed_dim in reachable(len(start.embed), sizes.embed):
        embed = least_lost(importance.embed[list(start.embed)], embed_dim)
        for options in product(*per_block):
            blocks = tuple(block for block, _ in options)
            yield replace(plan, embed_dim=embed_dim, blocks=blocks), embed + sum(loss for _, loss in options)


def random_start(plan: ShapePlan, generator: np.random.Generator) -> KeptUnits:
    """Keeps 8 units of some widths and all of the others."""

    def some(size: int) -> tuple[int, ...]:
        return tuple(sorted(generator.choice(size, 8 if generator.random() < 0.3 else size, replace=False).tolist()))

    def rows(size: int, heads: int) -> tuple[tuple[int, ...], ...]:
        first = some(size)
        return tuple(tuple(sorted(generator.choice(size, len(first), replace=False).tolist())) for _ in range(heads))

    blocks = []
    for b in plan.blocks:
        heads = (1,) if b.num_heads == 2 and generator.random() < 0.2 else tuple(range(b.num_heads))
        blocks.append(KeptBlock(heads, rows(b.qk_dim, len(heads)), rows(b.v_dim, len(heads)), some(b.mlp_dim)))
    return KeptUnits(some(plan.embed_dim), tuple(blocks))


@pytest.mark.parametrize("seed", range(50))
def test_it_is_the_best_of_all_plans(seed: int) -> None:
    generator = np.random.default_rng(seed)

    def pick(*values: int) -> int:
        return int(generator.choice(values))

    blocks = tuple(BlockPlan(pick(1, 2), pick(8, 16), pick(8, 16), pick(8, 16, 24)) for _ in range(2))
    plan = replace(TINY_PLAN, embed_dim=pick(16, 24), blocks=blocks)
    sizes = GroupSizes(mlp=pick(8, 16), qk=pick(8, 16), v=pick(8, 16), embed=pick(8, 16))
    importance = random_importance(plan, seed, levels=(None, None, 3)[seed % 3])
    start = keep_all(plan) if seed % 2 else random_start(plan, generator)
    plans = list(every_plan(plan, importance, start, sizes))
    for cost in ("params", "macs"):
        measure = Budget(COUNTS[cost], 0).of
        costs = [measure(candidate) for candidate, _ in plans]
        limits = {min(costs), max(costs), *generator.integers(min(costs), max(costs) + 1, 3).tolist(), pick(*costs)}
        for limit in limits:
            budget = Budget(COUNTS[cost], int(limit))
            best = min(loss for (_, loss), each in zip(plans, costs, strict=True) if each <= limit)
            found = solve(plan, importance, budget, start, sizes)
            assert_sound(plan, importance, budget, start, sizes, found)
            assert lost(importance, start, found.kept) == pytest.approx(best, rel=1e-9, abs=1e-20)
        with pytest.raises(PlanError) as caught:
            solve(plan, importance, Budget(COUNTS[cost], min(costs) - 1), start, sizes)
        assert f"Expected at least {cost}={min(costs)}. Got {cost}={min(costs) - 1}." in str(caught.value)
        assert "Raise the budget or choose smaller groups" in str(caught.value)


def merge(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adds every row (cost, loss) of ``a`` to every one of ``b``; keeps those that lose less than all cheaper ones."""
    both = (a[:, None] + b).reshape(-1, 2)
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    before = np.minimum.accumulate(np.concatenate([[np.inf], both[:-1, 1]]))
    return both[both[:, 1] < before]


@pytest.mark.parametrize("cost", ["params", "macs"])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_exact_where_bounds_alone_are_not(cost: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all trade-offs of cost and loss, merged block by block."""
    importance, start, sizes = random_importance(MID, seed), keep_all(MID), GroupSizes(mlp=(8, 16)[seed % 2])
    measure, asked = Budget(COUNTS[cost], 0).of, []
    exact = compress.search.knapsack.milp
    monkeypatch.setattr(
        compress.search.knapsack, "milp", lambda *args, **kwargs: asked.append(1) or exact(*args, **kwargs)
    )
    options = [list(block_options(*pair, sizes)) for pair in zip(start.blocks, importance.blocks, strict=True)]
    curves = []
    for embed_dim in reachable(MID.embed_dim, sizes.embed):
        plan = replace(MID, embed_dim=embed_dim)
        curve = np.array([[measure(plan), least_lost(importance.embed, embed_dim)]])
        for i, own in enumerate(options):
            curve = merge(curve, np.array([(measure(plan.with_block(i, b)) - measure(plan), x) for b, x in own]))
        curves.append(curve)
    trade_offs = np.concatenate(curves)
    notes: list[str] = []
    for share in np.linspace(0.12, 0.97, 18):
        budget = Budget(COUNTS[cost], int(share * measure(MID)))
        best = trade_offs[trade_offs[:, 0] <= budget.limit, 1].min()
        found = solve(MID, importance, budget, start, sizes, progress=lambda *heard: notes.append(heard[-1]))
        assert notes[-1] == f"embed_dim {found.plan.embed_dim}, importance lost {best:.4g}"
        assert_sound(MID, importance, budget, start, sizes, found)
        assert lost(importance, start, found.kept) == pytest.approx(best, rel=1e-9)
    assert len(asked) >= 5


def test_heads_are_judged_by_what_they_keep() -> None:
    """The first head has 24 in its best half and 0 in the other, the second 16 in each."""
    plan = replace(TINY_PLAN, embed_dim=8, blocks=(BlockPlan(2, 16, 8, 8),))
    ones = np.ones((2, 8))
    qk = np.vstack([np.repeat([0.0, 3.0], 8), np.full(16, 2.0)])
    importance = Importance(ones[0], (BlockImportance(qk, ones, ones[0]),))
    found = solve(
        plan, importance, Budget(COUNTS["macs"], Budget(COUNTS["macs"], 0).of(smallest_plan(plan))), keep_all(plan)
    )
    assert found.kept.blocks == (KeptBlock((0,), (tuple(range(8, 16)),), (tuple(range(8)),), tuple(range(8))),)
    assert [step["importance"] for step in found.steps] == [0, 32 + 8]


@pytest.mark.parametrize("seed", range(40))
def test_a_budget_is_met_with_no_more_lost_than_in_one_shot(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = GroupSizes(*generator.choice([8, 16], 4).tolist())
    measure = Budget(COUNTS["params" if seed % 2 else "macs"], 0)
    budget = replace(measure, limit=int(generator.uniform(0.15, 0.95) * measure.of(MID)))
    importance, start = random_importance(MID, seed), keep_all(MID)
    found = solve(MID, importance, budget, start, sizes)
    assert_sound(MID, importance, budget, start, sizes, found)
    shot = propose(MID, importance, budget, start, sizes)
    assert lost(importance, start, found.kept) <= lost(importance, start, shot.kept) * (1 + 1e-9)


def test_it_finds_the_group_that_one_shot_passes_by() -> None:
    """Parameters: 8 MLP units cost 8 * (2*8 + 1) = 136, 8 values of each of two heads 2 * 136.

    To save 272: the first 8 MLP units lose 1, the next 24, the values 3. One shot takes the 1, then has to take the 24.
    """
    plan = replace(TINY_PLAN, embed_dim=8, blocks=(BlockPlan(1, 8, 8, 24), BlockPlan(2, 8, 16, 8)))
    nine = np.full((2, 8), 9.0)
    values = np.hstack([nine, np.full((2, 8), 3 / 16)])
    first = BlockImportance(nine[:1], nine[:1], np.repeat([9.0, 3.0, 0.125], 8))
    importance = Importance(nine[0], (first, BlockImportance(nine, values, nine[0])))
    whole = Budget(COUNTS["params"], 0).of(plan)
    budget = Budget(COUNTS["params"], whole - 272)
    found = solve(plan, importance, budget, keep_all(plan))
    assert found.plan == plan.with_block(1, BlockPlan(2, 8, 8, 8))
    assert found.kept.blocks[1].v == (tuple(range(8)),) * 2
    assert [(step["importance"], step["cost"]) for step in found.steps] == [(0, whole), (0, whole), (3, whole - 272)]
    shot = propose(plan, importance, budget, keep_all(plan))
    assert sum(step["importance"] for step in shot.steps) == 25


@pytest.mark.parametrize("levels", [None, 2])
def test_the_most_important_units_stay(levels: int | None) -> None:
    importance = random_importance(MID, 7, levels)
    start = keep_all(MID)
    found = solve(MID, importance, Budget(COUNTS["macs"], Budget(COUNTS["macs"], 0).of(MID) // 3), start)
    rows = [(importance.embed, found.kept.embed)]
    for keep, scores in zip(found.kept.blocks, importance.blocks, strict=True):
        rows.append((scores.mlp, keep.mlp))
        rows += [(scores.qk[head], dims) for head, dims in zip(keep.heads, keep.qk, strict=True)]
        rows += [(scores.v[head], dims) for head, dims in zip(keep.heads, keep.v, strict=True)]
        qk, v = len(keep.qk[0]), len(keep.v[0])
        strength = np.sort(scores.qk)[:, -qk:].sum(1) + np.sort(scores.v)[:, -v:].sum(1)
        gone = set(range(len(strength))) - set(keep.heads)
        assert all(strength[head] >= strength[list(gone)].max(initial=0) for head in keep.heads)
    assert any(len(kept) < len(values) for values, kept in rows)
    for values, kept in rows:  # of equals the later goes
        best = sorted(range(len(values)), key=lambda unit: (-values[unit], unit))[: len(kept)]
        assert list(kept) == sorted(best)


@pytest.mark.parametrize("levels", [None, 1, 2, 3])
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_same_question_has_the_same_answer(levels: int | None, share: float) -> None:
    budget = Budget(COUNTS["params"], int(share * Budget(COUNTS["params"], 0).of(MID)))
    answers = [solve(MID, random_importance(MID, 3, levels), budget, keep_all(MID)) for _ in range(2)]
    assert answers[0] == answers[1]


def test_nothing_goes_within_the_budget() -> None:
    importance = random_importance(MID, 1, levels=1)
    assert solve(MID, importance, Budget(COUNTS["macs"], Budget(COUNTS["macs"], 0).of(MID)), keep_all(MID)) == Proposal(
        MID, keep_all(MID), ()
    )


def test_it_goes_on_from_what_is_kept_already() -> None:
    importance = random_importance(MID, 5)
    whole = Budget(COUNTS["params"], 0).of(MID)
    half = solve(MID, importance, Budget(COUNTS["params"], whole // 2), keep_all(MID))
    budget = Budget(COUNTS["params"], whole // 4)
    quarter = solve(MID, importance, budget, half.kept)
    assert_sound(MID, importance, budget, half.kept, GroupSizes(), quarter)
    assert set(quarter.kept.embed) <= set(half.kept.embed)
    for small, large in zip(quarter.kept.blocks, half.kept.blocks, strict=True):
        assert set(small.heads) <= set(large.heads)
        assert set(small.mlp) <= set(large.mlp)


def test_a_proposal_is_what_slicing_makes() -> None:
    budget = Budget(COUNTS["macs"], Budget(COUNTS["macs"], 0).of(TINY_PLAN) // 2)
    proposal = solve(TINY_PLAN, random_importance(TINY_PLAN, 0), budget, keep_all(TINY_PLAN))
    assert slice_vit(tiny_vit(), proposal.kept).plan == proposal.plan


def test_progress_ends_at_its_total() -> None:
    heard: list[tuple[str, int, int]] = []
    budget = Budget(COUNTS["macs"], Budget(COUNTS["macs"], 0).of(MID) // 2)
    solve(
        MID,
        random_importance(MID, 1),
        budget,
        keep_all(MID),
        progress=lambda stage, done, total, note="": heard.append((stage, done, total)),
    )
    assert heard == [("solve", done, len(heard)) for done in range(1, len(heard) + 1)]
    assert heard


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_importance_that_is_not_finite_is_refused(bad: float) -> None:
    importance = random_importance(MID, 1)
    importance.blocks[1].v[0, 3] = bad
    with pytest.raises(PlanError, match="importance of some units is not finite"):
        solve(MID, importance, Budget(COUNTS["macs"], Budget(COUNTS["macs"], 0).of(MID)), keep_all(MID))


HALF = Budget(COUNTS["macs"], Budget(COUNTS["macs"], 0).of(MID) // 2)


def test_a_program_without_an_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    late = SimpleNamespace(status=1, message="Time limit reached.")
    monkeypatch.setattr(compress.search.knapsack, "milp", lambda *args, **kwargs: late)
    with pytest.raises(PlanError, match=r"could not be solved\. Got Time limit reached\. Choose larger groups"):
        solve(MID, random_importance(MID, 1), HALF, keep_all(MID))


def test_an_answer_over_the_budget_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a solver may give whose tolerance is too wide for the cost."""
    importance, exact, over = random_importance(MID, 1), compress.search.knapsack.milp, []
    right = solve(MID, importance, HALF, keep_all(MID))

    def tolerant(objective: Any, *, constraints: Any, **options: Any) -> Any:
        once = len(constraints) == 2
        over.append(once)
        return exact(objective, constraints=constraints[: 1 if once else None], **options)

    monkeypatch.setattr(compress.search.knapsack, "milp", tolerant)
    assert solve(MID, importance, HALF, keep_all(MID)) == right
    assert over[:2] == [True, False]


@pytest.mark.parametrize("cost", ["params", "macs"])
def test_a_vit_small_is_solved(cost: Any) -> None:
    importance, start = random_importance(VIT_S, 0), keep_all(VIT_S)
    budget = Budget(COUNTS[cost], int(0.5 * Budget(COUNTS[cost], 0).of(VIT_S)))
    found = solve(VIT_S, importance, budget, start)
    assert_sound(VIT_S, importance, budget, start, GroupSizes(), found)
    assert budget.of(found.plan) > 0.99 * budget.limit
