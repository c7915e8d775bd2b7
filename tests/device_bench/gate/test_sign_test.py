import math
import random

import pytest

from device_bench.gate.sign_test import detectable, evidence, pairs_needed, ratio_interval, shown_above, shown_below


def test_evidence_is_the_integral_it_stands_for():
    for above, total in ((0, 1), (3, 4), (7, 10), (10, 10)):
        steps = 20_000
        inside = (0.5 + 0.5 * (i + 0.5) / steps for i in range(steps))
        integral = sum(p**above * (1 - p) ** (total - above) for p in inside) * 0.5 / steps
        assert evidence(above, total) == pytest.approx(2 ** (total + 1) * integral, rel=1e-6)


def test_evidence_of_nothing_is_one_and_bets_are_fair():
    assert evidence(0, 0) == 1
    for total in (0, 3, 12, 40):
        for above in range(total + 1):
            # a fair coin changes it by nothing on average: that is what makes every look allowed
            after = (evidence(above, total + 1) + evidence(above + 1, total + 1)) / 2
            assert after == pytest.approx(evidence(above, total))


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_needed_is_the_least_number_with_that_evidence(alpha):
    for total in (0, 4, 5, 17, 60, 400):
        enough = pairs_needed(total, alpha)
        if enough <= total:
            assert evidence(enough, total) >= 1 / alpha
        assert enough == 0 or evidence(min(enough, total + 1) - 1, total) < 1 / alpha


def test_it_may_be_looked_at_after_every_block():
    rng, alarms = random.Random(0), 0
    for _ in range(400):
        differences: list[float] = []
        for _ in range(200):
            # spikes, and a drift that is the same for both files
            differences.append(rng.gauss(0, 0.03) + (rng.random() < 0.1) * rng.choice((-1, 1)) * rng.expovariate(3))
            if shown_above(differences, 0.0, alpha=0.05):
                alarms += 1
                break
    assert alarms <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_a_slowdown_is_shown_and_its_absence_too():
    rng = random.Random(1)
    slow = [rng.gauss(0.05, 0.03) for _ in range(200)]
    assert shown_above(slow, 0.025)
    assert not shown_below(slow, 0.025)
    equal = [rng.gauss(0, 0.03) for _ in range(200)]
    assert shown_below(equal, 0.025)
    assert not shown_above(equal, 0.025)


def test_few_blocks_show_nothing():
    assert not shown_above([1.0] * 4, 0.0)
    interval = ratio_interval([0.1, 0.2, 0.3])
    assert (interval.low, interval.high) == (0.0, math.inf)
    assert interval.value == pytest.approx(math.exp(0.2))


def test_the_interval_holds_the_median_and_shrinks():
    rng = random.Random(2)
    values = [rng.gauss(0.05, 0.04) for _ in range(1000)]
    few, many = ratio_interval(values[:60]), ratio_interval(values)
    for interval in (few, many):
        assert interval.low < math.exp(0.05) < interval.high
    assert many.high - many.low < few.high - few.low


def test_the_interval_and_the_decision_agree():
    rng = random.Random(3)
    values = [rng.gauss(0.05, 0.04) for _ in range(80)]
    low = math.log(ratio_interval(values, alpha=0.02).low)
    assert shown_above(values, low - 1e-9, alpha=0.01)
    assert not shown_above(values, low + 1e-9, alpha=0.01)


def test_what_is_detectable_is_detected():
    rng = random.Random(4)
    noise = [rng.gauss(0, 0.04) for _ in range(2000)]
    least = detectable(noise, 150, 0.025)
    assert least is not None
    assert least > 0.026
    found = sum(shown_above([rng.gauss(math.log1p(least), 0.04) for _ in range(150)], 0.025) for _ in range(300))
    assert found / 300 >= 0.93
    assert detectable(noise, 4, 0.025) is None
    more = detectable(noise, 1000, 0.025)
    assert more is not None
    assert more < least
