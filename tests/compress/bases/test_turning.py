"""Balanced factors have the same product and equal squares, also where a factor lacks rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress.bases.analysis import analyse, features_in_canonical
from compress.bases.turning import balanced, random_rotation, turned
from compress.budget import parse_budget
from compress.model.canonical import canonical
from compress.model.slicing import keep_all
from compress.model.vit import build
from compress.search.milp import solve
from runtime import BlockPlan
from tests.compress.bases.analysed import ROOMY, analysis_of
from tests.compress.kinds import distance
from tests.compress.tiny import images_for, tiny_vit


def factors(left: int, rank: int, right: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(left + right)
    turn = torch.stack([random_rotation(rank, generator) for _ in range(2)])
    shapes = (2, left, rank), (2, rank, right)
    one, other = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return 30.0 * one, other / 30.0, turn


@pytest.mark.parametrize(("left", "right"), [(24, 40), (8, 8), (40, 9)])
def test_balanced_factors_share_what_their_product_holds(left: int, right: int) -> None:
    one, other, turn = factors(left, 8, right)
    a, b = balanced(one, other, turn)
    torch.testing.assert_close(a @ b, one @ other)
    torch.testing.assert_close(a.transpose(1, 2) @ a, b @ b.transpose(1, 2))


def test_factors_that_are_too_narrow_are_only_rotated() -> None:
    one, other, turn = factors(4, 8, 24)
    a, b = balanced(one, other, turn)
    torch.testing.assert_close(a @ b, one @ other)
    torch.testing.assert_close(b, turn @ other)


def test_empty_factors_stay_empty() -> None:
    one, other, turn = factors(24, 8, 24)
    other[1] = 0.0
    other[0, 3:] = 0.0
    a, b = balanced(one, other, turn)
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()
    torch.testing.assert_close(a @ b, one @ other)


def test_a_cut_model_in_balanced_bases_computes_the_same() -> None:
    found = analysis_of("roomy")
    kept = replace(keep_all(found.model.plan), embed=tuple(range(24)))
    cut = found.cut(kept)
    other, _ = found.turned(cut, kept, 2)
    assert other.plan == cut.plan
    assert distance(other, cut, images_for(cut.plan, 8)) <= 1e-5


@pytest.mark.parametrize("part", ["k", "v"])
def test_only_models_in_canonical_form_can_be_turned(part: str) -> None:
    model = canonical(tiny_vit(ROOMY))
    weights = dict(model.state_dict())
    weights[f"blocks.1.attn.{part}.bias"] = torch.ones_like(weights[f"blocks.1.attn.{part}.bias"])
    with pytest.raises(AssertionError, match="canonical"):
        turned(build(model.plan, weights), features_in_canonical(model), 0)


def test_a_search_removes_the_empty_head() -> None:
    plan = replace(ROOMY, blocks=(BlockPlan(4, 8, 8, 16), BlockPlan(3, 8, 8, 16)))
    model = tiny_vit(plan)
    with torch.no_grad():
        model.blocks[0].attn.proj.weight[:, 16:24] = 0.0
        model.blocks[1].attn.proj.weight[:, :8] = 0.0
    found = analyse(model, images_for(plan, 32))
    kept = solve(found.model.plan, found.importance, parse_budget("macs=0.84", found.model.plan), keep_all(plan)).kept
    assert (kept.blocks[0].heads, kept.blocks[1].heads) == ((0, 1, 3), (1, 2))
    assert distance(found.cut(kept), model, images_for(plan, 8, seed=3)) < 0.05
