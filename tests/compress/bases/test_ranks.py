"""The bases of heads are the best at every rank, and hidden units go as optimal brain surgeon says."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.bases import hidden
from compress.bases.heads import query_key_basis, roots, value_basis
from compress.bases.hidden import fitted, removal_order

Floats = npt.NDArray[np.float64]


def moment_of(rng: np.random.Generator, size: int, spread: float = 2.0) -> Floats:
    """A random second moment whose directions have unlike energies."""
    values = rng.normal(size=(8 * size, size)) * np.exp(rng.normal(size=size, scale=spread / 2))
    values = values @ np.linalg.qr(rng.normal(size=(size, size)))[0]
    moment: Floats = values.T @ values / len(values)
    return moment


def score_error(queries: Floats, keys: Floats, product: Floats) -> float:
    """Mean squared error of ``q^T product k`` for ``q^T k``, of independent queries and keys."""
    away = np.eye(len(queries)) - product
    return float(np.trace(queries @ away @ keys @ away.T))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_first_queries_and_keys_make_the_best_scores_of_their_number(seed: int) -> None:
    rng, d = np.random.default_rng(seed), 8
    queries, keys = moment_of(rng, d), moment_of(rng, d)
    to_q, to_k = (own[0].numpy() for own in query_key_basis(torch.tensor(queries)[None], torch.tensor(keys)[None]))
    np.testing.assert_allclose(to_q.T @ to_k, np.eye(d), atol=1e-8)
    singular = np.linalg.svd(np.linalg.cholesky(queries).T @ np.linalg.cholesky(keys), compute_uv=False)
    energy = np.argsort(queries.diagonal() * keys.diagonal())
    for cut in (1, 3, 6):
        error = score_error(queries, keys, to_q[: d - cut].T @ to_k[: d - cut])
        # no product of this rank can be nearer (Eckart and Young); the damping of the roots costs a little
        least = float(np.square(singular[d - cut :]).sum())
        assert least * (1 - 1e-9) <= error <= least * 1.05 + 1e-4 * float(np.square(singular).sum())
        stays = np.ones(d)
        stays[energy[:cut]] = 0
        assert error < score_error(queries, keys, np.diag(stays))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_first_values_make_the_best_output_of_their_number(seed: int) -> None:
    rng, d = np.random.default_rng(seed), 8
    mixed, projection = moment_of(rng, d), rng.normal(size=(24, d))
    turn, back = (own[0].numpy() for own in value_basis(torch.tensor(mixed)[None], torch.tensor(projection)[None]))
    np.testing.assert_allclose(turn @ back, np.eye(d), atol=1e-8)

    def error(product: Floats) -> float:
        away = projection @ (np.eye(d) - product)
        return float(np.trace(away @ mixed @ away.T))

    singular = np.linalg.svd(projection @ np.linalg.cholesky(mixed), compute_uv=False)
    energy = np.argsort(mixed.diagonal() * np.square(projection).sum(0))
    for cut in (1, 3, 6):
        found = error(back[:, : d - cut] @ turn[: d - cut])
        least = float(np.square(singular[d - cut :]).sum())
        assert least * (1 - 1e-9) <= found <= least * 1.05 + 1e-4 * float(np.square(singular).sum())
        stays = np.ones(d)
        stays[energy[:cut]] = 0
        assert found < error(np.diag(stays))


def test_heads_do_not_see_each_other() -> None:
    rng = np.random.default_rng(0)
    queries, keys = (torch.tensor(np.stack([moment_of(rng, 8) for _ in range(3)])) for _ in range(2))
    together = query_key_basis(queries, keys)
    for head in range(3):
        for own, all_heads in zip(query_key_basis(queries[head][None], keys[head][None]), together, strict=True):
            torch.testing.assert_close(own[0], all_heads[head])


def test_roots_are_roots_and_empty_directions_stay_finite() -> None:
    moment = torch.tensor(moment_of(np.random.default_rng(0), 8, 0.5))
    root, inverse = roots(moment)
    torch.testing.assert_close(root @ root, moment, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(root @ inverse, torch.eye(8, dtype=torch.float64))
    empty = torch.zeros(2, 8, 8, dtype=torch.float64)
    empty[1, 0, 0] = 1.0
    for own in (*roots(empty), *query_key_basis(empty, empty), *value_basis(empty, torch.zeros(2, 16, 8).double())):
        assert torch.isfinite(own).all()
    to_q, to_k = query_key_basis(empty, empty)
    torch.testing.assert_close(to_q.transpose(1, 2) @ to_k, torch.eye(8).double().expand(2, 8, 8))


# hidden units


def problem(seed: int, units: int = 20, outputs: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """The moment of correlated units that are not negative, with a one, and a Linear over them."""
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.normal(size=(400, 7)) @ rng.normal(size=(7, units)) + 0.5 * rng.normal(size=units), 0)
    values = np.concatenate([values + 0.1 * rng.normal(size=values.shape), np.ones((400, 1))], axis=1)
    return torch.tensor(values.T @ values / len(values)), torch.tensor(rng.normal(size=(outputs, units + 1)))


def damped(moment: torch.Tensor) -> Floats:
    energy = moment.diagonal()[:-1].mean()
    own: Floats = (moment + hidden._DAMPING * energy * torch.eye(len(moment))).numpy()
    return own


def plain_order(moment: Floats, weight: Floats, least: int) -> list[int]:
    """Optimal brain surgeon from its definition: every step solves least squares over what stays anew."""
    last, order = len(moment) - 1, []
    stays = list(range(len(moment)))
    while len(stays) - 1 > least:
        own = moment[np.ix_(stays, stays)]
        inverse = np.linalg.inv(own)
        best = weight @ moment[:, stays] @ inverse
        scores = np.square(best).sum(0) / inverse.diagonal()
        scores[stays.index(last)] = np.inf
        order.append(stays.pop(int(scores.argmin())))
    return order


def least_error(moment: Floats, weight: Floats, stays: list[int]) -> float:
    """Squared error of the best Linear over some inputs."""
    fit = np.linalg.solve(moment[np.ix_(stays, stays)], moment[stays] @ weight.T).T
    away = weight.copy()
    away[:, stays] -= fit
    return float(np.trace(away @ moment @ away.T))


@pytest.mark.parametrize("seed", range(5))
def test_one_at_a_time_is_optimal_brain_surgeon(seed: int) -> None:
    moment, weight = problem(seed)
    wanted = plain_order(damped(moment), weight.numpy(), 4)
    assert removal_order(moment, weight, 4, group=1) == wanted
    assert len(set(wanted)) == 16


@pytest.mark.parametrize("seed", range(5))
def test_groups_end_near_the_error_of_one_at_a_time(seed: int) -> None:
    moment, weight = problem(seed, units=48)
    own, every = damped(moment), set(range(48))
    errors = []
    for group in (1, 8):
        gone = removal_order(moment, weight, 16, group)
        assert len(gone) == len(set(gone)) == 32
        errors.append(least_error(own, weight.numpy(), [*sorted(every - set(gone)), 48]))
    assert errors[1] <= 1.05 * errors[0]
    energy = (moment.diagonal()[:-1] * weight[:, :-1].square().sum(0)).argsort()[32 - 48 :].tolist()
    by_energy = least_error(own, weight.numpy(), [*sorted(energy), 48])
    assert errors[0] < by_energy


def test_no_single_removal_is_cheaper_than_the_first() -> None:
    moment, weight = problem(7, units=12)
    own, every = damped(moment), range(13)
    errors = [least_error(own, weight.numpy(), [u for u in every if u != gone]) for gone in range(12)]
    assert removal_order(moment, weight, 11)[0] == int(np.argmin(errors))
    # and of pairs it takes one within a tenth of the best
    pairs = {
        pair: least_error(own, weight.numpy(), [u for u in every if u not in pair])
        for pair in itertools.combinations(range(12), 2)
    }
    assert pairs[tuple(sorted(removal_order(moment, weight, 10)))] <= 1.1 * min(pairs.values())


@pytest.mark.parametrize("least", [20, 21])
def test_nothing_goes_where_all_stay(least: int) -> None:
    assert removal_order(*problem(0), least) == []


def test_weights_are_fitted_by_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "_RIDGE", 0.0)
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=(200, 10)) @ rng.normal(size=(10, 10)), np.ones((200, 1))], axis=1)
    weight, kept = rng.normal(size=(4, 11)), [0, 2, 3, 7]
    found = fitted(torch.tensor(x.T @ x / 200), torch.tensor(weight), torch.tensor(kept))
    wanted = np.linalg.lstsq(x[:, [*kept, 10]], x @ weight.T, rcond=None)[0].T
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_the_ridge_keeps_weights_that_lack_nothing() -> None:
    moment, weight = problem(1)
    weight[:, [3, 5]] = 0.0
    kept = torch.tensor([u for u in range(20) if u not in (3, 5)])
    found = fitted(moment, weight, kept)
    torch.testing.assert_close(found, weight[:, [*kept.tolist(), 20]])


def test_dead_units_go_early_and_break_nothing() -> None:
    moment, weight = problem(2)
    moment[[4, 9]] = 0.0
    moment[:, [4, 9]] = 0.0
    assert {4, 9} <= set(removal_order(moment, weight, 8)[:8])
    moment = torch.zeros_like(moment)
    moment[-1, -1] = 1.0
    assert len(removal_order(moment, weight, 8)) == 12
    torch.testing.assert_close(fitted(moment, weight, torch.arange(8))[:, -1], weight[:, -1])
