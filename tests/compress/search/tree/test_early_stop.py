from __future__ import annotations

import random

import pytest

from compress.search.tree.early_stop import Sequential


def run(test: Sequential, items: list[bool]) -> bool:
    """Draws as the test asks until it says there are too many, or nothing is left to ask."""
    drawn = 0
    while drawn < len(items):
        step = test.next_step(drawn)
        if not step:
            return False
        drawn = min(len(items), drawn + step)
        if test.settled(drawn, sum(items[:drawn])):
            return True
    return False


@pytest.mark.parametrize(("size", "allowed"), [(60, 55), (60, 40), (250, 230), (20, 0), (7, 6)])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_it_is_wrong_no_more_often_than_it_says(size: int, allowed: int, error: float) -> None:
    """At the most that is allowed, which is the hardest case."""
    generator = random.Random(size)
    wrong, rounds = 0, 2000
    for _ in range(rounds):
        items = [True] * allowed + [False] * (size - allowed)
        generator.shuffle(items)
        wrong += run(Sequential(size, allowed, error), items)
    assert wrong <= error * rounds + 3 * (error * (1 - error) * rounds) ** 0.5


def test_it_settles_early_where_far_too_many_are_marked() -> None:
    test = Sequential(60, 40, 0.05)
    assert 0 < test.next_step(0) < 15
    assert run(test, [True] * 60)


def test_it_never_says_so_without_an_error_or_where_none_could_be_too_many() -> None:
    for test in (Sequential(60, 40, 0.0), Sequential(60, 60, 0.05), Sequential(60, 80, 0.05), Sequential(60, -1, 0.05)):
        assert test.next_step(0) == 0
        assert not test.settled(30, 30)


def test_the_tail_is_that_of_the_hypergeometric_distribution() -> None:
    """All of the first 2 of 4 items with 2 marked: 1 in 6."""
    assert not Sequential(4, 2, 2 * 0.16).settled(2, 2)
    assert Sequential(4, 2, 2 * 0.17).settled(2, 2)
