"""The bounds of a share and of a paired loss, and the looks at which they are taken."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.gate import looks, paired
from export.gate.looks import critical_value, planned_looks
from export.gate.paired import loss_bounds, share_bounds

Z = 1.645


def test_a_share_by_hand() -> None:
    # Wilson's bounds are the shares at which a count is z standard deviations away
    for bound in share_bounds(90, 100, Z):
        assert abs(0.9 - bound) / math.sqrt(bound * (1 - bound) / 100) == pytest.approx(Z)
    assert share_bounds(100, 100, Z)[1] == 1.0
    assert share_bounds(0, 100, Z)[0] == 0.0


def test_zero_is_inside_as_long_as_mcnemar_says_so() -> None:
    # at a loss of zero the score statistic is McNemar's: (lost - gained) / sqrt(lost + gained)
    for lost, gained in ((8, 2), (9, 2), (12, 5), (13, 5), (30, 18)):
        apart = (lost - gained) / math.sqrt(lost + gained) > Z
        assert (loss_bounds(lost, gained, 500, Z)[0] > 0) == apart


def test_without_any_change_the_bounds_are_those_of_a_share_of_none() -> None:
    low, high = loss_bounds(0, 0, 400, Z)
    assert high == pytest.approx(share_bounds(0, 400, Z)[1])
    assert low == pytest.approx(-high)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 400))
def test_bounds_hold_the_loss_between_them_and_turn_with_the_roles(lost: int, gained: int, more: int) -> None:
    images = lost + gained + more
    low, high = loss_bounds(lost, gained, images, Z)
    assert low <= (lost - gained) / images <= high
    mirrored = loss_bounds(gained, lost, images, Z)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)
    wider = loss_bounds(lost, gained, images, 2 * Z)
    assert wider[0] <= low
    assert wider[1] >= high


@pytest.mark.parametrize(("lost_share", "gained_share"), [(0.01, 0.01), (0.0125, 0.0075), (0.03, 0.01)])
def test_each_bound_misses_the_true_loss_as_often_as_it_should(lost_share: float, gained_share: float) -> None:
    random, images, draws = np.random.default_rng(0), 400, 600
    counts = random.multinomial(images, [lost_share, gained_share, 1 - lost_share - gained_share], draws)
    bounds = np.array([loss_bounds(int(lost), int(gained), images, Z) for lost, gained, _ in counts])
    loss = lost_share - gained_share
    # 5 % and three standard errors of 600 draws; few changes make the counts coarse, so it may be fewer
    assert (bounds[:, 0] > loss).mean() <= 0.077
    assert (bounds[:, 1] < loss).mean() <= 0.077
    assert (bounds[:, 1] < loss).mean() + (bounds[:, 0] > loss).mean() >= 0.02


def test_looks_double_up_to_the_last() -> None:
    assert planned_looks(365, 3000) == (365, 750, 1500, 3000)
    assert planned_looks(32, 100) == (32, 50, 100)
    assert planned_looks(300, 400) == (400,)
    assert planned_looks(360, 360) == (360,)
    assert planned_looks(10_000, 3000) == (10_000,)


def test_the_critical_value_is_pocock_s() -> None:
    # Pocock 1977, table 1: equal looks, two-sided 5 %
    assert critical_value((100,), 0.025) == pytest.approx(1.960, abs=2e-3)
    assert critical_value((1, 2), 0.025) == pytest.approx(2.178, abs=2e-3)
    assert critical_value((10, 20, 30, 40), 0.025) == pytest.approx(2.361, abs=2e-3)


def test_looks_far_apart_need_a_higher_value_than_looks_that_are_nearly_the_same() -> None:
    assert critical_value((365, 370)) < critical_value((365, 750)) < critical_value((365, 750, 1500, 3000)) < 2.24


def test_the_examples_in_the_docstrings() -> None:
    for module in (looks, paired):
        found = doctest.testmod(module)
        assert (found.failed, found.attempted > 0) == (0, True)
