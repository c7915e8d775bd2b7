import numpy as np
import pytest

from device_bench.timing.stats import bootstrap_percentile, median_interval, p90_interval, percentile, ratio_of_medians
from runtime import MeasurementError


def test_percentile_interpolates_between_neighbours():
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0], 0) == 1.0
    assert percentile([1.0, 2.0, 3.0], 100) == 3.0
    assert percentile([0.0, 10.0], 90) == pytest.approx(9.0)


@pytest.mark.parametrize(("estimate", "q"), [(median_interval, 0.5), (p90_interval, 0.9)])
def test_intervals_cover_the_true_percentile_about_as_often_as_they_say(estimate, q):
    rng = np.random.default_rng(7)
    truth = -np.log(1 - q)  # of the standard exponential
    intervals = [estimate(rng.exponential(size=120), seed=trial) for trial in range(150)]
    share = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.88 <= share <= 0.995


def test_the_interval_of_a_normal_median_has_its_known_width():
    values = np.random.default_rng(3).normal(10.0, 1.0, 2000)
    interval = median_interval(values)
    expected = 2 * 1.96 * 1.2533 / np.sqrt(2000)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(expected, rel=0.25)


def test_less_confidence_gives_a_narrower_interval():
    values = np.random.default_rng(3).normal(10.0, 1.0, 300)
    wide = bootstrap_percentile(values, 50, confidence=0.99)
    narrow = bootstrap_percentile(values, 50, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval_and_chunks_do_not_matter(monkeypatch):
    values = np.random.default_rng(3).normal(10.0, 1.0, 300)
    whole = bootstrap_percentile(values, 90, seed=5)
    assert whole == bootstrap_percentile(values, 90, seed=5)
    assert whole != bootstrap_percentile(values, 90, seed=6)
    monkeypatch.setattr("device_bench.timing.stats._CHUNK_VALUES", 1000)
    assert whole == bootstrap_percentile(values, 90, seed=5)


def test_constant_values_have_an_interval_without_width():
    interval = median_interval([2.0] * 10)
    assert (interval.low, interval.value, interval.high) == (2.0, 2.0, 2.0)


def test_rounds_slowed_together_do_not_blur_the_ratio():
    weather = np.random.default_rng(1).uniform(1.0, 3.0, 200)
    slow, fast = 2.0 * weather, 1.0 * weather
    together = ratio_of_medians(slow, fast)
    assert together.low == pytest.approx(2.0)
    assert together.high == pytest.approx(2.0)
    apart = ratio_of_medians(slow[:-1], fast)
    assert apart.high - apart.low > 0.1
    assert apart.low < 2.0 < apart.high


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")], [[1.0], [2.0]]])
def test_values_that_are_no_series_are_refused(values):
    with pytest.raises(MeasurementError):
        percentile(values, 50)
    with pytest.raises(MeasurementError):
        median_interval(values)


@pytest.mark.parametrize(
    "arguments", [{"q": 101}, {"q": -1}, {"q": float("nan")}, {"q": 50, "confidence": 1.0}, {"q": 50, "resamples": 5}]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(MeasurementError):
        bootstrap_percentile([1.0, 2.0], **arguments)


def test_a_ratio_of_values_that_are_not_positive_is_refused():
    with pytest.raises(MeasurementError, match="positive"):
        ratio_of_medians([1.0, 2.0], [0.0, 1.0])
