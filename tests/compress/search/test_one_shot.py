from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.budget import COUNTS, Budget, smallest_plan
from compress.importance.units import BlockImportance, Importance
from compress.model.slicing import keep_all, plan_of, slice_vit
from compress.search.base import GroupSizes, Proposal
from compress.search.one_shot import propose, removals
from runtime import BlockPlan, PlanError, ShapePlan, encode, macs, params
from tests.compress.strategies import kepts
from tests.compress.tiny import TINY_PLAN, tiny_vit

WIDE = replace(TINY_PLAN, embed_dim=64, blocks=(BlockPlan(4, 16, 24, 256), BlockPlan(2, 32, 16, 192)))
FINE = replace(TINY_PLAN, embed_dim=192, blocks=(BlockPlan(3, 64, 64, 768),) * 3)


def random_importance(plan: ShapePlan, seed: int = 0, levels: int | None = None) -> Importance:
    """Returns random importance; with ``levels``, of so few values that many are equal."""
    generator = np.random.default_rng(seed)

    def values(*shape: int) -> Any:
        return generator.gamma(0.5, size=shape) if levels is None else generator.integers(0, levels, shape) * 1.0

    return Importance(
        values(plan.embed_dim),
        tuple(
            BlockImportance(values(b.num_heads, b.qk_dim), values(b.num_heads, b.v_dim), values(b.mlp_dim))
            for b in plan.blocks
        ),
    )


def widths(plan: ShapePlan) -> list[int]:
    return [plan.embed_dim, *(w for b in plan.blocks for w in (b.qk_dim, b.v_dim, b.mlp_dim))]


def assert_sound(plan: ShapePlan, proposal: Proposal, budget: Budget) -> None:
    assert plan_of(plan, proposal.kept) == proposal.plan
    assert budget.of(proposal.plan) <= budget.limit
    assert all(width % 8 == 0 for width in widths(proposal.plan))
    costs = [step["cost"] for step in proposal.steps]
    assert costs == sorted(costs, reverse=True)
    assert all(cost > budget.limit for cost in costs[:-1])
    if costs:
        assert costs[-1] == budget.of(proposal.plan)
    json.dumps([dict(step) for step in proposal.steps], allow_nan=False)


@given(share=st.floats(0.25, 1.2), cost=st.sampled_from(["params", "macs"]), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_a_budget_is_met_and_undershot_by_two_percent_at_most(share: float, cost: Any, seed: int) -> None:
    budget = Budget(COUNTS[cost], int(share * Budget(COUNTS[cost], 0).of(FINE)))
    proposal = propose(FINE, random_importance(FINE, seed), budget, keep_all(FINE), GroupSizes(mlp=16, embed=16))
    assert_sound(FINE, proposal, budget)
    if share < 1:
        assert budget.of(proposal.plan) >= 0.98 * budget.limit
    else:
        assert proposal == Proposal(FINE, keep_all(FINE), ())


@given(
    share=st.floats(0.02, 1.0),
    cost=st.sampled_from(["params", "macs"]),
    seed=st.integers(0, 99),
    sizes=st.builds(GroupSizes, *[st.sampled_from([8, 16, 24, 64])] * 4),
)
@settings(max_examples=60, deadline=None)
def test_every_step_is_the_least_importance_per_cost(share: float, cost: Any, seed: int, sizes: GroupSizes) -> None:
    """Replays each step from the definition; coarse groups undershoot only where none is left that does not."""
    importance, budget = (
        random_importance(WIDE, seed),
        Budget(COUNTS[cost], int(share * Budget(COUNTS[cost], 0).of(WIDE))),
    )
    kept = keep_all(WIDE)
    while left := list(removals(WIDE, importance, kept, sizes)):
        kept = left[-1].kept
    least = budget.of(plan_of(WIDE, kept))
    if least > budget.limit:
        with pytest.raises(PlanError) as caught:
            propose(WIDE, importance, budget, keep_all(WIDE), sizes)
        assert f"Expected at least {cost}={least}. Got {cost}={budget.limit}." in str(caught.value)
        reached = propose(WIDE, importance, replace(budget, limit=least), keep_all(WIDE), sizes)
        assert reached.plan == plan_of(WIDE, kept)
        return
    proposal = propose(WIDE, importance, budget, keep_all(WIDE), sizes)
    assert_sound(WIDE, proposal, budget)
    kept = keep_all(WIDE)
    for step in proposal.steps:
        before = budget.of(plan_of(WIDE, kept))
        choices = [(r, budget.of(plan_of(WIDE, r.kept))) for r in removals(WIDE, importance, kept, sizes)]
        gentle = [(r, after) for r, after in choices if after >= 0.98 * budget.limit] or choices
        chosen, after = min(gentle, key=lambda choice: choice[0].importance / (before - choice[1]))
        assert step == {
            "action": chosen.action,
            "block": chosen.block,
            "importance": chosen.importance,
            "cost": after,
        }
        kept = chosen.kept
    assert kept == proposal.kept


@given(data=st.data(), seed=st.integers(0, 99), sizes=st.builds(GroupSizes, *[st.sampled_from([8, 16, 24])] * 4))
@settings(max_examples=60, deadline=None)
def test_each_group_is_the_least_of_its_kind(data: st.DataObject, seed: int, sizes: GroupSizes) -> None:
    """Brute force over the units that are still there, with sorting alone."""
    kept, importance = data.draw(kepts(WIDE)), random_importance(WIDE, seed)
    found = {(r.action, r.block): r for r in removals(WIDE, importance, kept, sizes)}
    assert len(found) == len(list(removals(WIDE, importance, kept, sizes)))
    legal = {("embed", -1)} if len(kept.embed) > sizes.embed else set()
    for i, (keep, scores) in enumerate(zip(kept.blocks, importance.blocks, strict=True)):
        options = {
            "mlp": len(keep.mlp) > sizes.mlp,
            "qk": len(keep.qk[0]) > sizes.qk,
            "v": len(keep.v[0]) > sizes.v,
            "head": len(keep.heads) > 1,
        }
        legal |= {(action, i) for action, possible in options.items() if possible}
        if options["mlp"]:
            gone = sorted(keep.mlp, key=lambda u: scores.mlp[u])[: sizes.mlp]
            removal = found["mlp", i]
            assert removal.kept.blocks[i] == replace(keep, mlp=tuple(sorted(set(keep.mlp) - set(gone))))
            assert removal.importance == pytest.approx(sum(scores.mlp[u] for u in gone))
        for kind, own, per_head, size in (("qk", keep.qk, scores.qk, sizes.qk), ("v", keep.v, scores.v, sizes.v)):
            if options[kind]:
                lost, rest = 0.0, []
                for head, dims in zip(keep.heads, own, strict=True):
                    ranked = sorted(dims, key=lambda d: per_head[head, d])
                    lost += sum(per_head[head, d] for d in ranked[:size])
                    rest.append(tuple(sorted(ranked[size:])))
                removal = found[kind, i]  # type: ignore[index]
                assert removal.kept.blocks[i] == replace(keep, **{kind: tuple(rest)})
                assert removal.importance == pytest.approx(lost)
        if options["head"]:
            totals = {
                h: scores.qk[h, list(q)].sum() + scores.v[h, list(v)].sum()
                for h, q, v in zip(keep.heads, keep.qk, keep.v, strict=True)
            }
            worst = min(totals, key=lambda h: totals[h])
            removal = found["head", i]
            assert removal.kept.blocks[i].heads == tuple(h for h in keep.heads if h != worst)
            assert removal.importance == pytest.approx(totals[worst])
        for (_, block), removal in found.items():
            others = [j for j in range(len(WIDE.blocks)) if j != block]
            assert all(removal.kept.blocks[j] == kept.blocks[j] for j in others)
    assert found.keys() == legal
    for removal in found.values():
        plan_of(WIDE, removal.kept)


HAND = replace(TINY_PLAN, embed_dim=16, blocks=(BlockPlan(1, 8, 8, 24),))


def test_a_case_computed_by_hand() -> None:
    """Parameters: 8 MLP units cost 8 * (2*16 + 1) = 264, 8 dimensions of the stream cost 912 (784 after them).

    Of the stream: patch embedding 8*16 + 8, class token 8, positions 8*5, last norm 16, head 8*3; in the block
    two norms 32, q, k, v, proj 4*8*8 with bias 8, MLP 2*8*24 with bias 8.
    """
    mlp = np.array([9.0] * 8 + [0.33] * 8 + [0.99] * 8)
    embed = np.array([5.0, 2.28] * 8)
    importance = Importance(embed, (BlockImportance(np.ones((1, 8)), np.ones((1, 8)), mlp),))
    whole = params(HAND)
    assert [r.importance for r in removals(HAND, importance, keep_all(HAND), GroupSizes())] == pytest.approx(
        [2.64, 18.24]
    )
    least = params(smallest_plan(HAND))
    proposal = propose(HAND, importance, Budget(COUNTS["params"], least), keep_all(HAND))
    # 2.64/264 = 0.010 < 18.24/912 = 0.020; then 18.24/784 = 0.023 < 7.92/264 = 0.030; then the rest of the MLP
    assert [(s["action"], s["block"], s["cost"]) for s in proposal.steps] == [
        ("mlp", 0, whole - 264),
        ("embed", -1, whole - 264 - 784),
        ("mlp", 0, whole - 264 - 784 - 136),
    ]
    assert proposal.kept.embed == tuple(range(0, 16, 2))
    assert proposal.kept.blocks[0].mlp == tuple(range(8))
    assert proposal.plan == smallest_plan(HAND)
    # A budget that the second MLP group meets exactly: the stream, cheaper per parameter, would undershoot it.
    gentle = propose(HAND, importance, Budget(COUNTS["params"], whole - 2 * 264), keep_all(HAND))
    assert [s["action"] for s in gentle.steps] == ["mlp", "mlp"]


def test_equals_go_in_one_fixed_order() -> None:
    """Of equal units the later goes, of equal heads and equal groups the first."""
    flat = random_importance(WIDE, levels=1)
    found = {(r.action, r.block): r.kept for r in removals(WIDE, flat, keep_all(WIDE), GroupSizes())}
    assert found["mlp", 0].blocks[0].mlp == tuple(range(248))
    assert found["qk", 0].blocks[0].qk == (tuple(range(8)),) * 4
    assert found["v", 1].blocks[1].v == (tuple(range(8)),) * 2
    assert found["head", 0].blocks[0].heads == (1, 2, 3)
    assert found["embed", -1].embed == tuple(range(56))
    budget = Budget(COUNTS["macs"], macs(WIDE) // 3)
    first = propose(WIDE, flat, budget, keep_all(WIDE))
    assert first.steps[0]["action"] == "mlp"
    assert first.steps[0]["block"] == 0
    for levels in (1, 2, 3):
        importance = random_importance(WIDE, levels=levels)
        again = random_importance(WIDE, levels=levels)
        assert propose(WIDE, importance, budget, keep_all(WIDE)) == propose(WIDE, again, budget, keep_all(WIDE))


def test_proposals_go_on_from_what_is_kept_already() -> None:
    importance = random_importance(WIDE, 5)
    half = propose(WIDE, importance, Budget(COUNTS["params"], params(WIDE) // 2), keep_all(WIDE))
    third = propose(WIDE, importance, Budget(COUNTS["params"], params(WIDE) // 3), half.kept)
    assert set(third.kept.embed) <= set(half.kept.embed)
    for small, large in zip(third.kept.blocks, half.kept.blocks, strict=True):
        assert set(small.heads) <= set(large.heads)
        assert set(small.mlp) <= set(large.mlp)
    assert third.steps[0]["cost"] < half.steps[-1]["cost"]


def test_a_proposal_is_what_slicing_makes() -> None:
    model = tiny_vit()
    proposal = propose(
        TINY_PLAN, random_importance(TINY_PLAN), Budget(COUNTS["macs"], macs(TINY_PLAN) // 2), keep_all(TINY_PLAN)
    )
    small = slice_vit(model, proposal.kept)
    assert small.plan == proposal.plan
    assert encode(small.plan) == encode(proposal.plan)


@pytest.mark.parametrize("name", ["mlp", "qk", "v", "embed"])
@pytest.mark.parametrize("size", [0, -8, 4, 12])
def test_group_sizes_are_multiples_of_8(name: str, size: int) -> None:
    with pytest.raises(PlanError, match=rf"group size of {name} must be a positive multiple of 8. Got {size}\."):
        GroupSizes(**{name: size})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_importance_that_is_not_finite_is_refused(bad: float) -> None:
    importance = random_importance(WIDE)
    importance.blocks[1].v[0, 3] = bad
    with pytest.raises(PlanError, match="importance of some units is not finite"):
        propose(WIDE, importance, Budget(COUNTS["macs"], macs(WIDE)), keep_all(WIDE))
