from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compress.budget import COUNTS, Budget, parse_budget
from compress.importance import CRITERIA
from compress.importance.base import ImportanceInputs
from compress.importance.scores import fisher_scores, taylor_scores
from compress.importance.units import Importance, group_importance
from compress.model.slicing import keep_all, slice_vit
from compress.model.vit import SlicedViT
from compress.search.milp import solve
from compress.search.one_shot import propose
from runtime import PlanError, macs
from tests.compress.tiny import TINY_PLAN, images_for, tiny_vit

Batch = tuple[torch.Tensor, torch.Tensor]


class OneWeight(nn.Module):
    """Logits ``(w x, 0)``: for the first class dL/dw = -x / (1 + exp(w x)), for the second x / (1 + exp(-w x))."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[weight]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images @ self.weight
        return torch.cat([score, torch.zeros_like(score)], dim=1)


def batches_for(model: SlicedViT) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images_for(model.plan, 4, seed), torch.arange(4) % model.plan.num_classes) for seed in range(3)]


def measured(criterion: str, model: SlicedViT, batches: Iterable[Batch] = (), seed: int = 0) -> Importance:
    return CRITERIA[criterion].importance(ImportanceInputs(model, batches, seed=seed))


def same(one: Importance, other: Importance) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.parts(), other.parts(), strict=True))


def test_taylor_by_hand() -> None:
    weight, xs, labels = 0.5, (2.0, -3.0, 1.0), (0, 0, 1)
    batches = [(torch.tensor([[x]]), torch.tensor([label])) for x, label in zip(xs, labels, strict=True)]
    slopes = [
        -x / (1 + np.exp(weight * x)) if label == 0 else x / (1 + np.exp(-weight * x))
        for x, label in zip(xs, labels, strict=True)
    ]
    model = OneWeight(weight)
    taylor = taylor_scores(model, batches)["weight"]  # type: ignore[arg-type]
    fisher = fisher_scores(model, batches)["weight"]  # type: ignore[arg-type]
    assert float(taylor) == pytest.approx((weight * np.mean(slopes)) ** 2, rel=1e-5)
    assert float(fisher) == pytest.approx(weight**2 * np.mean(np.square(slopes)), rel=1e-5)
    assert float(taylor) < 0.9 * float(fisher)


def test_opposite_batches_cancel_in_taylor_and_not_in_fisher() -> None:
    # near a score of 0 both classes are as likely, and the gradients of the two labels opposite
    batches = [(torch.tensor([[2.0]]), torch.tensor([label])) for label in (0, 1)]
    model = OneWeight(1e-3)
    assert float(fisher_scores(model, batches)["weight"]) > 1e3 * float(taylor_scores(model, batches)["weight"])  # type: ignore[arg-type]


def test_taylor_of_a_vit_against_autograd() -> None:
    model = tiny_vit()
    batches, seen = batches_for(model), []
    scores = taylor_scores(model, batches, progress=lambda *a: seen.append(a[:3]), total=3)
    assert seen == [("importance", 1, 3), ("importance", 2, 3), ("importance", 3, 3)]
    # the mean over batches of the gradient is the gradient of the mean over batches
    loss = sum(nn.functional.cross_entropy(model(images), labels) for images, labels in batches) / 3
    assert isinstance(loss, torch.Tensor)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(scores[name], (weight * gradient).detach() ** 2, rtol=1e-3, atol=1e-10)
        assert scores[name].shape == weight.shape


def test_l2_of_a_unit_is_the_squared_norm_of_its_weights() -> None:
    model = tiny_vit()
    found = measured("l2", model)
    weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    mlp = [
        np.linalg.norm(
            [
                *weights["blocks.0.mlp.fc1.weight"][unit],
                weights["blocks.0.mlp.fc1.bias"][unit],
                *weights["blocks.0.mlp.fc2.weight"][:, unit],
            ]
        )
        for unit in range(24)
    ]
    np.testing.assert_allclose(found.blocks[0].mlp, np.square(mlp), rtol=1e-6)
    # head 1 of block 0, value dimension 3: row 1 * 8 + 3 of v, that bias, and that column of proj
    row = [
        *weights["blocks.0.attn.v.weight"][11],
        weights["blocks.0.attn.v.bias"][11],
        *weights["blocks.0.attn.proj.weight"][:, 11],
    ]
    assert found.blocks[0].v[1, 3] == pytest.approx(np.linalg.norm(row) ** 2, rel=1e-6)


def test_random_is_seeded_and_even() -> None:
    model = tiny_vit()
    one, again, other = (measured("random", model, seed=seed) for seed in (5, 5, 6))
    assert same(one, again)
    assert not same(one, other)
    wide = tiny_vit(replace(TINY_PLAN, embed_dim=8, blocks=(replace(TINY_PLAN.blocks[0], mlp_dim=4096),)))
    drawn = measured("random", wide, seed=0).blocks[0].mlp / (8 + 1 + 8)  # fc1's row, its bias, fc2's column
    # of 4096 draws from 0 to 1: mean within 4 standard errors, no tenth twice as full as another
    assert abs(drawn.mean() - 0.5) < 4 / np.sqrt(12 * 4096)
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    assert counts.sum() == 4096
    assert counts.max() < 2 * counts.min()


def test_random_favours_no_kind_of_unit() -> None:
    model = tiny_vit()
    ones = {name: torch.ones_like(value) for name, value in model.named_parameters()}
    sizes = list(group_importance(TINY_PLAN, ones).parts())
    shares = [np.zeros_like(size) for size in sizes]
    for seed in range(200):
        for share, drawn, size in zip(shares, measured("random", model, seed=seed).parts(), sizes, strict=True):
            share += drawn / size / 200
    # 200 draws each: within 5 standard errors of a half, whatever the size of the unit
    assert len({float(size.flat[0]) for size in sizes}) > 2
    assert all(np.abs(share - 0.5).max() < 5 / np.sqrt(12 * 200) for share in shares)


def test_random_does_not_look_at_weights() -> None:
    assert same(measured("random", tiny_vit(seed=1), seed=3), measured("random", tiny_vit(seed=2), seed=3))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("share", ["0.7", "0.4"])
def test_what_each_criterion_cuts_meets_the_budget(criterion: str, share: str) -> None:
    model = tiny_vit()
    importance = measured(criterion, model, batches_for(model), seed=1)
    budget = parse_budget(f"macs={share}", model.plan)
    for select in (propose, solve):
        proposal = select(model.plan, importance, budget, keep_all(model.plan))
        smaller = slice_vit(model, proposal.kept)
        assert smaller.plan == proposal.plan
        assert macs(smaller.plan) <= budget.limit < macs(model.plan)
        assert smaller(images_for(smaller.plan)).shape == (2, 3)


def test_criteria_choose_differently() -> None:
    model = tiny_vit()
    budget = Budget(COUNTS["params"], 7 * Budget(COUNTS["params"], 0).of(model.plan) // 10)
    kept = [
        propose(model.plan, measured(one, model, batches_for(model)), budget, keep_all(model.plan)).kept
        for one in CRITERIA
    ]
    assert len(set(kept)) == len(CRITERIA)


def test_those_that_need_no_images_draw_none() -> None:
    def none() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        raise AssertionError("a batch was drawn")
        yield

    model = tiny_vit()
    for criterion in ("l2", "random"):
        assert same(measured(criterion, model, none()), measured(criterion, model))


@pytest.mark.parametrize("criterion", ["fisher", "taylor"])
def test_without_images_there_is_no_importance(criterion: str) -> None:
    with pytest.raises(PlanError, match="needs images"):
        measured(criterion, tiny_vit(), [])


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(PlanError, match="fisher, taylor, l2, random"):
        CRITERIA["l1"]


def test_a_model_of_vectors_has_fisher_scores_without_labels() -> None:
    model = tiny_vit(replace(TINY_PLAN, output="vector", num_classes=6))
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(images[i : i + 4], torch.zeros(4, dtype=torch.int64)) for i in range(0, 16, 4)]
    other = [(pixels, labels + 1) for pixels, labels in batches]
    scores, again = fisher_scores(model, batches), fisher_scores(model, other)
    assert all(torch.equal(scores[name], again[name]) for name in scores)
    assert float(scores["head.weight"].sum()) > 0
