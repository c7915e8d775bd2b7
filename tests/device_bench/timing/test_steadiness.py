from dataclasses import replace

import numpy as np
import pytest

from device_bench.timing.steadiness import machine_notes, modes, series_notes, trend
from tests.device_bench.conftest import MACHINE

SERIES = 200


def noise(seed: int, count: int, sigma: float = 0.03) -> np.ndarray:
    """Times of 10 ms with lognormal noise, and spikes of 1.5 to 6 times in 3 % of the runs."""
    rng = np.random.default_rng(seed)
    values = 0.01 * np.exp(rng.normal(0, sigma, count))
    spikes = rng.random(count) < 0.03
    values[spikes] *= rng.uniform(1.5, 6, spikes.sum())
    return values


@pytest.mark.parametrize("count", [30, 60, 400])
@pytest.mark.parametrize("sigma", [0.005, 0.03, 0.1])
def test_noise_and_spikes_alone_are_rarely_noted(count, sigma):
    assert sum(bool(series_notes(noise(seed, count, sigma))) for seed in range(SERIES)) <= 0.02 * SERIES


def test_a_skewed_series_has_one_mode():
    skewed = [1 + np.random.default_rng(seed).exponential(0.3, 200) for seed in range(SERIES)]
    assert sum(modes(series) is not None for series in skewed) <= 0.02 * SERIES


@pytest.mark.parametrize("change", [0.05, -0.05])
def test_a_drift_of_five_percent_is_found(change):
    found = [trend(noise(seed, 200) * np.linspace(1, 1 + change, 200)) for seed in range(SERIES)]
    assert sum(one.sure and abs(one.change) > 0.025 for one in found) >= 0.9 * SERIES
    assert np.median([one.change for one in found]) == pytest.approx(change, rel=0.2)
    word = "slower" if change > 0 else "faster"
    assert word in series_notes(0.01 * np.linspace(1, 1 + change, 200))[0]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_second_mode_is_found(share):
    found = []
    for seed in range(SERIES):
        values = noise(seed, 200)
        values[np.random.default_rng(seed + SERIES).random(200) < share] *= 1.3
        found.append(modes(values))
    sure = [one for one in found if one is not None]
    assert len(sure) >= 0.9 * SERIES
    assert np.median([one.high / one.low for one in sure]) == pytest.approx(1.3, rel=0.03)
    assert np.median([one.high_share for one in sure]) == pytest.approx(share, abs=0.05)


def test_two_modes_are_said():
    (note,) = series_notes([0.010, 0.013, 0.010, 0.010, 0.010] * 20)
    assert "20% of the runs take 1.30 times" in note


def test_few_values_and_equal_ones_say_nothing():
    for values in ([0.01], [0.01, 0.02], [0.01] * 5, [0.01] * 300):
        assert series_notes(values) == ()


def test_a_warm_up_that_did_not_settle_is_said():
    assert "before the times had settled" in series_notes([0.01] * 30, steady=False)[0]


BEFORE = replace(
    MACHINE,
    clocks_hz=(2.4e9,) * 4,
    max_clocks_hz=(2.4e9,) * 4,
    throttle_count=5,
    throttled_bits=0x50000,
    uptime_s=1000.0,
    busy_s=300.0,
    own_s=1.0,
    steal_s=2.0,
)
AFTER = replace(BEFORE, uptime_s=1010.0, busy_s=310.5, own_s=11.0)


def test_a_quiet_machine_needs_no_note():
    assert machine_notes(BEFORE, AFTER) == ()
    assert machine_notes(MACHINE, MACHINE) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"throttle_count": 8}, "throttled for its heat 3 times"),
        ({"throttled_bits": 0x50005}, "the voltage is too low, it is throttled"),
        ({"throttled_bits": 0x70000}, "the clock is capped"),
        ({"busy_s": 312.0}, "Other processes took 20% of a core"),
        ({"steal_s": 4.0}, "hypervisor gave 20% of a core"),
        ({"clocks_hz": (1.9e9,) * 4}, "fell from 2.40 to 1.90 GHz"),
        ({"governor": "performance, powersave"}, "governor is powersave"),
    ],
)
def test_a_disturbed_machine_is_said(changes, said):
    (note,) = machine_notes(BEFORE, replace(AFTER, **changes))
    assert said in note


def test_a_low_clock_is_said_of_the_fastest_core_alone():
    low = {"clocks_hz": (1.2e9, 0.6e9), "max_clocks_hz": (2.4e9, 2.4e9)}
    assert "1.20 GHz of at most 2.40" in machine_notes(replace(BEFORE, **low), replace(AFTER, **low))[0]
    mixed = {"clocks_hz": (0.6e9, 2.4e9), "max_clocks_hz": (2.4e9, 2.4e9)}
    assert machine_notes(replace(BEFORE, **mixed), replace(AFTER, **mixed)) == ()


def test_powersave_is_no_fault_where_the_driver_tunes_itself():
    assert machine_notes(BEFORE, replace(AFTER, governor="powersave", clock_driver="intel_pstate")) == ()


def test_too_short_a_time_says_nothing_of_others():
    assert machine_notes(BEFORE, replace(AFTER, uptime_s=1000.1, busy_s=400.0)) == ()


def test_company_is_seen_in_half_a_second_but_not_in_the_ticks_of_its_clock():
    half = replace(AFTER, uptime_s=1000.5, own_s=1.5)
    assert machine_notes(BEFORE, replace(half, busy_s=300.57)) == ()
    assert "Other processes took 60% of a core" in machine_notes(BEFORE, replace(half, busy_s=300.8))[0]
