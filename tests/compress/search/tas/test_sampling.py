from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from compress.search.tas.sampling import draw_some, pick_some, relaxed

ODDS = (0.05, 0.1, 0.15, 0.3, 0.4)
LOGITS = torch.tensor(ODDS, dtype=torch.float64).log() + 3.0  # a constant changes nothing
DRAWS = 100_000


def uniform(draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((draws, len(ODDS)))


def within_three_sigma(count: int, odds: float) -> bool:
    return abs(count - DRAWS * odds) <= 3 * (DRAWS * odds * (1 - odds)) ** 0.5


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_the_most_likely_entry_is_distributed_as_the_odds(temperature: float) -> None:
    winners = relaxed(LOGITS, temperature, uniform()).argmax(-1)
    counts = torch.bincount(winners, minlength=len(ODDS)).tolist()
    assert all(within_three_sigma(count, p) for count, p in zip(counts, ODDS, strict=True)), counts


def test_a_sample_is_one_hot_when_cold_and_even_when_hot() -> None:
    noise = uniform(1000)
    for temperature in (10.0, 1.0, 1e-3, 1e6):
        torch.testing.assert_close(
            relaxed(LOGITS, temperature, noise).exp().sum(-1), torch.ones(1000, dtype=torch.float64)
        )
    cold = relaxed(LOGITS, 1e-4, noise).exp()
    assert (cold.amax(-1) > 0.99).double().mean() > 0.99
    torch.testing.assert_close(cold.mean(0), torch.tensor(ODDS, dtype=torch.float64), atol=0.05, rtol=0)
    hot = relaxed(LOGITS, 1e6, noise).exp()
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / len(ODDS)), atol=1e-5, rtol=0)


def test_a_sample_by_its_formula_and_with_the_least_number_a_generator_draws() -> None:
    u = np.array([0.5, 0.25, 0.125, 0.75, 0.0625])
    gumbel = -np.log(-np.log(u))
    raised = np.exp((np.log(ODDS) + gumbel) / 0.7)
    np.testing.assert_allclose(relaxed(LOGITS, 0.7, u).exp().numpy(), raised / raised.sum(), rtol=1e-12)
    u[0] = 0.0
    assert torch.isfinite(relaxed(LOGITS, 0.1, u)).all()


def test_two_are_drawn_by_their_odds_without_putting_back() -> None:
    drawn = draw_some(LOGITS.log_softmax(-1), 2, uniform())
    assert drawn.shape == (DRAWS, 2)
    firsts = torch.bincount(drawn[:, 0], minlength=len(ODDS)).tolist()
    assert all(within_three_sigma(count, p) for count, p in zip(firsts, ODDS, strict=True))
    pairs = drawn.sort(-1).values
    for a, b in combinations(range(len(ODDS)), 2):
        chance = ODDS[a] * ODDS[b] * (1 / (1 - ODDS[a]) + 1 / (1 - ODDS[b]))
        count = int(((pairs[:, 0] == a) & (pairs[:, 1] == b)).sum())
        assert within_three_sigma(count, chance), (a, b, count, DRAWS * chance)


@pytest.mark.parametrize("temperature", [10.0, 0.1, 1e-4])
def test_a_pick_is_two_candidates_whose_weights_sum_to_one(temperature: float) -> None:
    widths = (8, 16, 24, 32, 40)
    for seed in range(200):
        pick = pick_some(LOGITS, widths, 2, temperature, np.random.default_rng(seed))
        small, large = pick.widths
        assert small < large
        assert {small, large} <= set(widths)
        assert float(pick.weights.sum()) == pytest.approx(1.0, abs=1e-12)
        assert pick.weights.min() >= 0


def test_all_candidates_take_part_where_that_many_are_asked_for() -> None:
    widths, sample = (8, 16, 24, 32, 40), relaxed(LOGITS, 2.0, np.random.default_rng(5).random(5)).exp()
    for count in (5, 9):
        pick = pick_some(LOGITS, widths, count, 2.0, np.random.default_rng(5))
        assert pick.widths == widths
        torch.testing.assert_close(pick.weights, sample)
    assert len(pick_some(LOGITS, widths, 3, 2.0, np.random.default_rng(5)).widths) == 3


def test_the_weights_of_a_pick_are_the_samples_odds_of_those_two() -> None:
    pick = pick_some(LOGITS, (8, 16, 24, 32, 40), 2, 2.0, np.random.default_rng(5))
    sample = relaxed(LOGITS, 2.0, np.random.default_rng(5).random(5)).exp()
    own = sample[[width // 8 - 1 for width in pick.widths]]
    torch.testing.assert_close(pick.weights, own / own.sum())


def test_of_one_candidate_there_is_nothing_to_draw() -> None:
    pick = pick_some(torch.zeros(1, dtype=torch.float64), (8,), 2, 1.0, np.random.default_rng(0))
    assert pick.widths == (8,)
    assert pick.weights.tolist() == [1.0]
