"""Tests of significance against closed forms and hand-computed cases."""

from __future__ import annotations

import math
from itertools import product

import pytest

from pocketvit.study.results.significance import (
    NO_ANSWERS,
    NO_SPREAD,
    ONE_SEED,
    Contender,
    combined,
    compare,
    holm,
    mcnemar,
    paired_t,
)
from pocketvit.study.results.spread import spread


def test_a_t_test_of_two_differences_is_the_closed_form_of_one_degree_of_freedom() -> None:
    # with one degree of freedom t is Cauchy's: p = 1 - 2 atan(|t|) / pi
    differences = [0.01, 0.05]
    t = (sum(differences) / 2) / (0.04 / 2)
    assert paired_t(differences) == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-12)


def test_a_t_test_of_three_differences_is_the_closed_form_of_two_degrees_of_freedom() -> None:
    differences = [0.02, -0.01, 0.05]
    mean = sum(differences) / 3
    t = mean / math.sqrt(sum((d - mean) ** 2 for d in differences) / 2 / 3)
    assert paired_t(differences) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)


def test_where_a_t_test_says_nothing_it_says_why() -> None:
    assert paired_t([0.1]) == ONE_SEED
    assert paired_t([0.1, 0.1, 0.1]) == NO_SPREAD
    assert paired_t([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("counts", list(product(range(6), range(6))))
def test_mcnemar_counts_all_as_unlikely_splits(counts: tuple[int, int]) -> None:
    total = sum(counts)
    extreme = [k for k in range(total + 1) if abs(2 * k - total) >= abs(counts[0] - counts[1])]
    assert mcnemar(*counts) == pytest.approx(sum(math.comb(total, k) for k in extreme) / 2**total)


def test_holm_is_the_textbook_step_down() -> None:
    assert holm([0.005, 0.011, 0.02, 0.04, 0.13]) == pytest.approx([0.025, 0.044, 0.06, 0.08, 0.13])
    assert holm([0.04, 0.001]) == pytest.approx([0.04, 0.002])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_values_of_one_question_are_combined_as_twice_their_mean() -> None:
    assert combined([0.01, 0.02, 0.03]) == pytest.approx(0.04)
    assert combined([0.7, 0.9]) == 1.0
    assert combined([0.03]) == 0.03


def contender(label: str, top1: dict[int, float], right: dict[int, str] | None = None) -> Contender:
    marks = {seed: tuple(mark == "1" for mark in text) for seed, text in (right or {}).items()}
    return Contender(label, top1, marks)


def test_methods_are_paired_by_seed_and_by_image() -> None:
    one = contender("a", {0: 0.5, 1: 0.25, 2: 0.9}, {0: "1100", 1: "1000"})
    other = contender("b", {1: 0.75, 0: 0.5}, {1: "0111", 0: "1010"})
    (found,) = compare("m", "d", "fp32", [(one, other)], 0.05)
    assert found.difference.values == pytest.approx((0.0, 0.5))
    assert (found.only_first_right, found.only_second_right) == ((1, 1), (1, 3))
    assert found.images.p == pytest.approx(combined([mcnemar(1, 1), mcnemar(1, 3)]))
    assert found.seeds.p == pytest.approx(1 - 2 * math.atan(1) / math.pi)


def test_a_family_is_held_to_as_many_comparisons_as_have_a_figure() -> None:
    base = contender("base", {0: 0.5, 1: 0.5, 2: 0.5})
    better = contender("better", {0: 0.60, 1: 0.61, 2: 0.62})
    same = contender("same", {0: 0.51, 1: 0.49, 2: 0.5})
    lonely = contender("lonely", {0: 0.9})
    found = compare("m", "d", "fp32", [(base, better), (base, same), (base, lonely)], 0.05)
    raw = [own.seeds.p for own in found]
    assert raw[0] is not None
    assert raw[2] is None
    assert found[0].seeds.holm == pytest.approx(2 * raw[0])
    assert [own.seeds.significant for own in found] == [True, False, None]
    assert found[2].seeds.reason == ONE_SEED
    assert all(own.images.p is None and own.images.reason == NO_ANSWERS for own in found)


def test_a_spread_is_that_of_a_sample_and_one_value_has_none() -> None:
    told = spread([1.0, 2.0, 6.0], "")
    assert (told.n, told.mean, told.sd) == (3, 3.0, pytest.approx(math.sqrt(7)))
    assert spread([4.0, None], "").sd is None
    assert spread([], "not measured").reason == "not measured"
