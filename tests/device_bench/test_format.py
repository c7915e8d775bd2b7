# ruff: noqa: RUF001 - the typographic signs are what is tested
import doctest

import pytest

import device_bench.format
import device_bench.metrics.memory
import device_bench.timing.measure
import device_bench.timing.stats
from device_bench import format as f
from device_bench.interval import Interval


@pytest.mark.parametrize(
    "module",
    [device_bench.format, device_bench.timing.measure, device_bench.metrics.memory, device_bench.timing.stats],
    ids=lambda m: m.__name__,
)
def test_examples_in_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (999_600, "1.00 M"),
        (85.8e6, "85.8 M"),
        (4.2e9, "4.20 G"),
    ],
)
def test_counts(value, text):
    assert f.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0009996, "1.00 ms"), (0.00999, "9.99 ms"), (0.009996, "10.0 ms"), (0.0999, "99.9 ms"), (3e-8, "0.03 µs")],
)
def test_durations(value, text):
    assert f.seconds(value) == text


def test_an_interval_is_in_the_unit_of_its_value():
    assert f.seconds_interval(Interval(0.00101, 0.00098, 0.00109)) == "1.01 ms [0.98, 1.09]"


def test_nearly_all_is_not_all():
    assert f.percent(0.99999) == "> 99.9 %"
    assert f.percent(0.00001) == "< 0.1 %"
    assert (f.percent(0.0), f.percent(1.0)) == ("0.0 %", "100.0 %")


def test_what_is_missing_is_a_dash():
    for text in (
        f.count(None),
        f.size(None),
        f.percent(None),
        f.seconds(None),
        f.seconds_interval(None),
        f.times_interval(None),
        f.decibels(None),
        f.error(None),
        f.plain(None),
        f.hertz(None),
        f.hertz(()),
        f.celsius(None),
        f.whole(None),
        f.digest(None),
        f.change(None, 1),
        f.change(0, 1),
        f.points(1.0, None),
    ):
        assert text == "–"
