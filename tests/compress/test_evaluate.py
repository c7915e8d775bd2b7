from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compress.evaluate import evaluating, logits_of, score

from .tiny import SPEC, TINY_PLAN, tiny_vit, toy_data


class Reader(torch.nn.Module):
    """Says which third of the rows is brightest, and with which mode it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.9)
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        rows = images[:, 0].mean(-1)
        return self.dropout(torch.stack([rows[:, 3 * c : 3 * c + 2].mean(1) for c in range(3)], 1))


def test_logits_are_in_order_whatever_the_batch() -> None:
    data, model = toy_data(), tiny_vit()
    indices = data.train[[5, 1, 20, 1]]
    logits = logits_of(model, data, indices, SPEC)
    assert logits.shape == (4, TINY_PLAN.num_classes)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[1], logits[3], atol=1e-6)
    np.testing.assert_allclose(logits_of(model, data, indices, SPEC, batch_size=3), logits, atol=1e-5)
    np.testing.assert_allclose(logits_of(model, data, indices[::-1], SPEC), logits[::-1], atol=1e-5)


def test_a_score_is_accuracy_and_mean_cross_entropy() -> None:
    data, model = toy_data(), tiny_vit()
    result = score(model, data, data.test, SPEC)
    logits = logits_of(model, data, data.test, SPEC).astype(np.float64)
    labels = data.labels[data.test]
    assert result.images == len(labels) == 15
    assert result.top1 == (logits.argmax(1) == labels).mean()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert result.loss == pytest.approx(-log_p[np.arange(15), labels].mean(), rel=1e-5)


def test_a_model_that_knows_is_always_right_and_is_asked_in_evaluation_mode() -> None:
    data, model = toy_data(), Reader().train()
    assert score(model, data, data.test, SPEC).top1 == 1.0
    assert set(model.modes) == {(False, False)}
    assert model.training
    wrong = toy_data()
    wrong.labels[:] = (wrong.labels + 1) % 3
    assert score(model.eval(), wrong, wrong.test, SPEC).top1 == 0.0
    assert not model.training


def test_the_mode_comes_back_after_an_error() -> None:
    def fail() -> None:
        with evaluating(model):
            seen.append(model.training)
            raise KeyError

    model, seen = Reader().train(), []
    with pytest.raises(KeyError):
        fail()
    assert seen == [False]
    assert model.training
    assert torch.is_grad_enabled()


def test_bfloat16_is_near() -> None:
    data, model = toy_data(), tiny_vit()
    exact, rough = (logits_of(model, data, data.test, SPEC, bf16=bf16) for bf16 in (False, True))
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    assert math.isclose(float(np.abs(rough - exact).max()), 0, abs_tol=0.15)


def test_who_waits_hears_of_every_batch() -> None:
    data, said = toy_data(), []
    result = score(tiny_vit(), data, data.test, SPEC, progress=lambda *told: said.append(told), stage="score test")
    assert [told[0] for told in said] == ["score test"] * len(said)
    assert said[-1] == ("score test", result.images, len(data.test))
    said.clear()
    logits_of(tiny_vit(), data, data.test[:7], SPEC, batch_size=3, progress=lambda *told: said.append(told))
    assert [told[1:] for told in said] == [(3, 7), (6, 7), (7, 7)]
