from collections.abc import Callable

import numpy as np
import pytest

from device_bench.documents.measurement import Measurement, Sampling
from device_bench.timing.measure import STEADY, WINDOW, is_steady, measure_interleaved
from runtime import MeasurementError, UnsupportedTargetError


class FakeClock:
    """Time that passes only when a runner says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def runner(self, cost: Callable[[int], float], log: list[str], name: str) -> Callable[[], None]:
        def run() -> None:
            self.now += round(cost(log.count(name)) * 1e9)
            log.append(name)

        return run


def measure(costs, sampling, seed=0, progress=None):
    clock, log = FakeClock(), []
    runners = {name: clock.runner(cost, log, name) for name, cost in costs.items()}
    extra = {"progress": progress} if progress else {}
    return measure_interleaved(runners, sampling=sampling, seed=seed, clock=clock, **extra), log


def test_each_runner_gets_its_own_times_in_order():
    costs = {"a": lambda done: 0.01, "b": lambda done: 0.02 if done < 20 else 0.02 + done * 1e-6}
    (a, b), _ = measure(costs, Sampling.exactly(3))
    assert (a.metric, a.unit, a.steady) == ("latency", "s", True)
    assert a.values == pytest.approx((0.01,) * 3)
    assert b.values == pytest.approx((0.020021, 0.020023, 0.020025))
    assert b.warmup_values == pytest.approx((0.02,) * 10)


@pytest.mark.parametrize(("cold", "runs"), [(0.0005, 9), (0.004, 4), (0.05, 2)])
def test_of_several_each_is_timed_as_if_it_ran_alone(cold, runs):
    clock, log, last = FakeClock(), [], []

    def runner(name: str) -> Callable[[], None]:
        def run() -> None:
            last[:] = [*last, name] if last[-1:] == [name] else [name]
            clock.now += round((cold if len(last) < runs else 0.0001) * 1e9)
            log.append(name)

        return run

    both = measure_interleaved({name: runner(name) for name in "ab"}, sampling=Sampling.exactly(4), clock=clock)
    assert [one.values for one in both] == [pytest.approx((0.0001,) * 4)] * 2


def test_one_alone_is_timed_every_time():
    _, log = measure({"a": lambda done: 0.001}, Sampling.exactly(40))
    assert len(log) == 50


def test_every_round_runs_each_once_in_an_order_that_changes():
    costs = dict.fromkeys("abc", lambda done: 0.01)
    _, log = measure(costs, Sampling.exactly(40))
    assert log[::2] == log[1::2]
    rounds = [tuple(log[i : i + 6 : 2]) for i in range(0, len(log), 6)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) == 6
    assert measure(costs, Sampling.exactly(40))[1] == log
    assert measure(costs, Sampling.exactly(40), seed=1)[1] != log


def test_warm_up_waits_for_the_slowest_series_to_settle():
    costs = {"steady": lambda done: 0.001, "late": lambda done: 0.001 if done >= 40 else 0.1 / (done + 1)}
    (steady, late), _ = measure(costs, Sampling.exactly(5))
    assert len(steady.warmup_values) == len(late.warmup_values) > 10
    assert late.steady
    assert late.values == pytest.approx((0.001,) * 5)


def test_warm_up_ends_at_its_cap_and_says_so():
    (never, calm), _ = measure(
        {"never": lambda done: 0.001 * 2**done, "calm": lambda done: 0.001},
        Sampling(min_samples=2, max_samples=2, max_warmup=12),
    )
    assert len(never.warmup_values) == 12
    assert not never.steady
    assert calm.steady


def test_a_fast_model_stops_at_the_most_samples_and_a_slow_one_at_its_budget():
    (fast,), _ = measure({"fast": lambda done: 0.001}, Sampling())
    (slow,), _ = measure({"slow": lambda done: 0.05}, Sampling())
    (slowest,), _ = measure({"slowest": lambda done: 2.0}, Sampling())
    assert (len(fast.values), len(slow.values), len(slowest.values)) == (1000, 100, 30)


def test_the_budget_is_shared_by_all_runners():
    (fast, slow), _ = measure({"fast": lambda done: 0.01, "slow": lambda done: 0.09}, Sampling())
    assert len(fast.values) == len(slow.values) == 50


def test_progress_never_passes_its_total_and_ends_at_it():
    seen = []
    measure(
        {"a": lambda done: 0.05},
        Sampling(),
        progress=lambda *told: seen.append(told),
    )
    assert all(done <= total for _, done, total in seen)
    assert seen[-1] == ("measure", 100, 100)
    assert seen[0][0] == "warm-up"


def test_a_failing_runner_is_named():
    def broken() -> None:
        raise ValueError("bad tensor")

    with pytest.raises(MeasurementError, match=r"model\.onnx failed.*bad tensor"):
        measure_interleaved({"model.onnx": broken}, clock=FakeClock())


def test_our_own_errors_pass_unchanged():
    def refused() -> None:
        raise UnsupportedTargetError("no")

    with pytest.raises(UnsupportedTargetError):
        measure_interleaved({"a": refused}, clock=FakeClock())


def test_a_clock_that_runs_backwards_is_refused():
    ticks = iter(range(100, 0, -1))
    with pytest.raises(MeasurementError, match="backwards"):
        measure_interleaved({"a": lambda: None}, clock=lambda: next(ticks))


def test_nothing_to_measure_is_refused():
    with pytest.raises(MeasurementError, match="nothing"):
        measure_interleaved({})


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_samples": 0},
        {"min_samples": 10, "max_samples": 9},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"max_warmup": 0},
    ],
)
def test_a_sampling_out_of_range_is_refused(arguments):
    with pytest.raises(MeasurementError):
        Sampling(**arguments)


@pytest.mark.parametrize("values", [(), (1.0, -1.0), (float("nan"),), (float("inf"),)])
def test_impossible_values_are_refused(values):
    with pytest.raises(MeasurementError):
        Measurement("latency", "s", values, (), True)


def test_steady_compares_two_windows():
    assert not is_steady([1.0] * 9)
    assert is_steady([1.0] * 5 + [1.02] * 5)
    assert not is_steady([1.0] * 5 + [1.06] * 5)
    assert is_steady([1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0])


def settled_after(rate: float, falling: int, seed: int) -> int:
    """Returns how many runs a series is called steady after that falls by ``rate`` a run, ``falling`` times."""
    rng, series = np.random.default_rng(seed), []
    while not is_steady(series):
        series.append((1 - rate) ** min(len(series), falling) * np.exp(rng.normal(0, 0.003)))
    return len(series)


@pytest.mark.parametrize("rate", [0.005, 0.009])
def test_a_slow_drift_is_waited_for(rate):
    """Neighbouring windows differ by less than 5 %, and the whole by a fifth and more."""
    assert abs(1 - (1 - rate) ** WINDOW) < STEADY
    assert all(settled_after(rate, 40, seed) > 40 for seed in range(20))


def test_a_settled_series_is_soon_called_so():
    assert np.median([settled_after(0.0, 0, seed) for seed in range(50)]) == 10
    assert max(settled_after(0.0, 0, seed) for seed in range(50)) <= 20


def test_whose_turn_it_is_is_told_outside_the_time():
    clock, turns = FakeClock(), []

    def turn(name: str) -> None:
        turns.append(name)
        clock.now += 10**9

    log = []
    (only,) = measure_interleaved(
        {"a": clock.runner(lambda done: 0.001, log, "a")}, sampling=Sampling.exactly(3), clock=clock, turn=turn
    )
    assert only.values == pytest.approx((0.001,) * 3)
    assert turns == log
