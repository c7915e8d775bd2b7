from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from compress.distill.response import distillation_loss


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@given(
    seed=st.integers(0, 999),
    weight=st.floats(0, 1),
    temperature=st.floats(0.5, 20),
    size=st.tuples(st.integers(1, 6), st.integers(2, 9)),
)
def test_it_is_the_closed_form(seed: int, weight: float, temperature: float, size: tuple[int, int]) -> None:
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(0, 3, (2, *size))
    labels = generator.integers(0, size[1], size[0])
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    divergence = (np.exp(p) * (p - q)).sum(-1).mean()
    cross_entropy = -log_softmax(student)[np.arange(size[0]), labels].mean()
    expected = weight * temperature**2 * divergence + (1 - weight) * cross_entropy
    got = distillation_loss(*map(torch.from_numpy, (student, teacher, labels)), weight, temperature)
    assert float(got) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_its_limits() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    labels = torch.tensor([0, 1, 2, 4])
    assert torch.equal(distillation_loss(student, teacher, labels, 0.0, 4.0), F.cross_entropy(student, labels))
    assert float(distillation_loss(student, student, labels, 1.0, 4.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(student, student + 3.0, labels, 1.0, 4.0)) == pytest.approx(0, abs=1e-5)
    assert float(distillation_loss(student, teacher, labels, 1.0, 4.0)) > 0.1


def test_gradients_pull_the_student_to_the_teacher() -> None:
    teacher = torch.tensor([[3.0, 0.0, -1.0]])
    student = torch.zeros(1, 3, requires_grad=True)
    distillation_loss(student, teacher, torch.tensor([2]), 1.0, 2.0).backward()
    assert student.grad is not None
    expected = 2.0 * ((student.detach() / 2).softmax(-1) - (teacher / 2).softmax(-1))
    torch.testing.assert_close(student.grad, expected)
