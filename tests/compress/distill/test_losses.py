"""Every loss against a value worked out by other means, and its gradients against finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from compress.data.dataset import UNLABELLED
from compress.distill.features import feature_loss, on_one_grid, projection_of
from compress.distill.relations import angle_loss, distance_loss
from compress.distill.response import distillation_loss, label_loss, mutual_losses, soft_loss
from compress.distill.shallow import ShallowHead, self_loss

RIGHT_TRIANGLE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
EVEN_TRIANGLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_soft_loss_of_two_classes_is_the_formula() -> None:
    p, q = 1 / (1 + math.exp(-2 / 2)), 1 / (1 + math.exp(-1 / 2))
    expected = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    got = soft_loss(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[2.0, 0.0]]).double(), 2.0)
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_at_high_temperature_soft_loss_matches_logits() -> None:
    """Hinton's limit: the gradient becomes the difference of centred logits over the number of classes."""
    student, teacher = random(1, 5).requires_grad_(), random(1, 5, seed=1)
    soft_loss(student, teacher, 1e4).backward()
    centred = (student.detach() - student.detach().mean()) - (teacher - teacher.mean())
    assert student.grad is not None
    torch.testing.assert_close(student.grad, centred / 5, rtol=1e-3, atol=1e-4)


def test_pictures_without_labels_have_the_soft_term_alone() -> None:
    student, teacher = random(3, 4), random(3, 4, seed=1)
    labels = torch.tensor([2, UNLABELLED, 0])
    expected = 0.7 * soft_loss(student, teacher, 3.0) + 0.3 * F.cross_entropy(student[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(distillation_loss(student, teacher, labels, 0.7, 3.0), expected)
    none = torch.full((3,), UNLABELLED)
    torch.testing.assert_close(
        distillation_loss(student, teacher, none, 0.7, 3.0), 0.7 * soft_loss(student, teacher, 3.0)
    )
    alone = student.clone().requires_grad_()
    label_loss(alone, none).backward()
    assert alone.grad is not None
    assert not alone.grad.any()


def test_mutual_losses_are_deep_mutual_learning() -> None:
    a, b = random(4, 3).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 1])
    first, second = mutual_losses(a, b, labels, (0.5, 0.5), 1.0)
    p, q = a.detach().log_softmax(-1), b.detach().log_softmax(-1)
    assert 2 * first.item() == pytest.approx(
        float(F.cross_entropy(p, labels) + (q.exp() * (q - p)).sum(-1).mean()), rel=1e-12
    )
    assert 2 * second.item() == pytest.approx(
        float(F.cross_entropy(q, labels) + (p.exp() * (p - q)).sum(-1).mean()), rel=1e-12
    )
    first.backward()
    assert a.grad is not None
    assert b.grad is None
    second.backward()
    own = torch.autograd.functional.jacobian(lambda x: mutual_losses(x, b, labels, (0.5, 0.5), 1.0)[0], a.detach())
    torch.testing.assert_close(a.grad, own)


def test_feature_loss_of_a_worked_case() -> None:
    student = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    teacher = torch.tensor([[[[2.0]]]])
    # the mean of the student's map is 4, of the teacher's 2: ((4 - 2) / 2) squared
    assert float(feature_loss(student, teacher, nn.Identity())) == pytest.approx(1.0)
    assert float(feature_loss(teacher, student, nn.Identity())) == pytest.approx((4 - 2) ** 2 / 4**2)
    assert float(feature_loss(student, student, nn.Identity())) == 0
    assert float(feature_loss(torch.zeros_like(student), student, nn.Identity())) == 1


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_feature_loss_does_not_hang_on_the_scale(seed: int, scale: float) -> None:
    a, b = random(2, 3, 4, 4, seed=seed), random(2, 3, 4, 4, seed=seed + 100)
    expected = float(((a - b) ** 2).sum() / (b**2).sum())
    assert float(feature_loss(a * scale, b * scale, nn.Identity())) == pytest.approx(expected, rel=1e-9)


def test_feature_loss_projects_channels_and_not_places() -> None:
    linear = nn.Linear(3, 5).double()
    student, teacher = random(2, 3, 4, 2), random(2, 5, 2, 4, seed=1)
    pooled = student.reshape(2, 3, 2, 2, 2).mean(3)
    wanted = teacher.reshape(2, 5, 2, 2, 2).mean(4)
    hinted = torch.einsum("bchw,dc->bdhw", pooled, linear.weight) + linear.bias[:, None, None]
    expected = (hinted - wanted).square().sum() / wanted.square().sum()
    torch.testing.assert_close(feature_loss(student, teacher, linear), expected)
    assert [x.shape for x in on_one_grid(student, teacher)] == [(2, 3, 2, 2), (2, 5, 2, 2)]


def test_projections_start_by_saying_nothing_and_learn() -> None:
    assert isinstance(projection_of(8, 8), nn.Identity)
    projection = projection_of(8, 3)
    student, teacher = random(2, 8, 2, 2).float(), random(2, 3, 2, 2, seed=1).float()
    optimizer = torch.optim.Adam(projection.parameters(), 0.05)
    losses = []
    for _ in range(200):
        loss = feature_loss(student, teacher, projection)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(1.0)
    assert losses[-1] < 0.1


def test_distance_loss_of_two_triangles() -> None:
    """Sides 3, 4, 5 have mean 4; the sides of an even triangle are its mean."""
    expected = (huber(3 / 4 - 1) + huber(4 / 4 - 1) + huber(5 / 4 - 1)) / 3
    assert float(distance_loss(EVEN_TRIANGLE, RIGHT_TRIANGLE)) == pytest.approx(expected, rel=1e-12)


def test_angle_loss_of_two_triangles() -> None:
    """Cosines 0, 3/5 and 4/5 against three of 1/2."""
    expected = (huber(0.5) + huber(0.1) + huber(0.3)) / 3
    assert float(angle_loss(EVEN_TRIANGLE, RIGHT_TRIANGLE)) == pytest.approx(expected, rel=1e-9)


def by_hand(student: np.ndarray, teacher: np.ndarray) -> tuple[float, float]:
    """Returns both relation losses, pair by pair and triple by triple."""
    count = len(student)
    pairs = list(itertools.permutations(range(count), 2))
    norms = [{(i, j): float(np.linalg.norm(x[i] - x[j])) for i, j in pairs} for x in (student, teacher)]
    means = [sum(own.values()) / len(pairs) for own in norms]
    distance = sum(huber(norms[0][p] / means[0] - norms[1][p] / means[1]) for p in pairs) / len(pairs)
    angles = []
    for i, j, k in itertools.permutations(range(count), 3):
        cosines = [
            float((x[i] - x[j]) @ (x[k] - x[j])) / own[i, j] / own[k, j]
            for x, own in zip((student, teacher), norms, strict=True)
        ]
        angles.append(huber(cosines[0] - cosines[1]))
    return distance, sum(angles) / len(angles)


@given(seed=st.integers(0, 999), count=st.integers(3, 6), widths=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_relation_losses_are_the_sums_over_pairs_and_triples(seed: int, count: int, widths: tuple[int, int]) -> None:
    student, teacher = random(count, widths[0], seed=seed), random(count, widths[1], seed=seed + 1)
    distance, angle = by_hand(student.numpy(), teacher.numpy())
    assert float(distance_loss(student, teacher)) == pytest.approx(distance, rel=1e-9, abs=1e-12)
    assert float(angle_loss(student, teacher)) == pytest.approx(angle, rel=1e-9, abs=1e-12)


def test_relations_do_not_see_shifts_turns_and_scales() -> None:
    x = random(6, 3)
    turn = torch.linalg.qr(random(3, 3, seed=1)).Q
    for loss in (distance_loss, angle_loss):
        assert float(loss(2.5 * x @ turn + 7, x)) == pytest.approx(0, abs=1e-12)
        assert float(loss(random(6, 3, seed=2), x)) > 1e-3


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_few_pictures_or_one_point_have_no_relations(loss) -> None:  # type: ignore[no-untyped-def]
    for rows in (torch.ones(1, 4), torch.ones(3, 4)):
        student = rows.clone().requires_grad_()
        loss(student, random(len(rows), 4).float()).backward()
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())
    assert float(angle_loss(random(2, 4), random(2, 4))) == 0
    twice = random(4, 3)[[0, 1, 2, 2]].requires_grad_()
    loss(twice, random(4, 3, seed=1)).backward()
    assert twice.grad is not None
    assert float(twice.grad.abs().max()) < 1e3


def test_self_loss_is_the_sum_of_its_three_terms() -> None:
    shallow, deepest, labels = random(4, 3), random(4, 3, seed=1), torch.tensor([0, 1, 2, UNLABELLED])
    early, late = random(4, 8, 2, 2, seed=2), random(4, 8, 2, 2, seed=3)
    p, q = (deepest / 2).log_softmax(-1), (shallow / 2).log_softmax(-1)
    soft = 4 * (p.exp() * (p - q)).sum(-1).mean()
    hint = ((early - late) ** 2).sum() / (late**2).sum()
    expected = 0.4 * soft + 0.6 * F.cross_entropy(shallow[:3], labels[:3]) + 0.1 * hint
    got = self_loss(shallow, deepest, (early, late), labels, weight=0.4, feature_weight=0.1, temperature=2.0)
    torch.testing.assert_close(got, expected)


def test_the_deepest_block_is_not_pulled_to_the_shallow_one() -> None:
    shallow, deepest = random(2, 3).requires_grad_(), random(2, 3, seed=1).requires_grad_()
    early, late = random(2, 4, 2, 2, seed=2).requires_grad_(), random(2, 4, 2, 2, seed=3).requires_grad_()
    labels = torch.tensor([0, 1])
    self_loss(shallow, deepest, (early, late), labels, weight=0.5, feature_weight=0.5, temperature=1.0).backward()
    assert shallow.grad is not None
    assert early.grad is not None
    assert deepest.grad is None
    assert late.grad is None


def test_a_shallow_head_reads_the_mean_of_the_patches() -> None:
    head, states = ShallowHead(8, 3), random(2, 8, 2, 3).float()
    normed = F.layer_norm(states.mean((2, 3)), (8,))
    torch.testing.assert_close(head(states), normed @ head.head.weight.T + head.head.bias)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: soft_loss(x, random(4, 3, seed=9), 2.0),
        lambda x: distillation_loss(x, random(4, 3, seed=9), torch.tensor([0, 1, UNLABELLED, 2]), 0.8, 2.0),
        lambda x: distance_loss(x, random(4, 5, seed=9)),
        lambda x: angle_loss(x, random(4, 5, seed=9)),
        lambda x: feature_loss(x.reshape(1, 3, 2, 2), random(1, 3, 2, 2, seed=9), nn.Identity()),
        lambda x: feature_loss(x.reshape(1, 3, 2, 2), random(1, 3, 1, 2, seed=9), nn.Identity()),
    ],
)
def test_gradients_are_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    assert torch.autograd.gradcheck(loss, random(4, 3).requires_grad_())
