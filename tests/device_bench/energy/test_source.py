import sys
import threading

import pytest

from device_bench.energy.source import CounterSource, PolledPower, SourceError, every, run_command


class Bench:
    """A clock, a power and a watch that do only what a test tells them."""

    def __init__(self, watts: float) -> None:
        self.ns, self.watts, self.failure = 0, watts, None
        self.polls = []

    def read_w(self) -> float:
        if self.failure:
            raise self.failure
        return self.watts

    def watch(self, do, seconds):
        self.polls.append(do)
        return self.polls.clear

    def source(self) -> PolledPower:
        return PolledPower("meter", self.read_w, interval_s=0.5, clock=lambda: self.ns, watch=self.watch)

    def later(self, seconds: float, watts: float) -> None:
        self.ns, self.watts = self.ns + round(seconds * 1e9), watts


def test_power_is_added_up_by_trapezoids():
    bench = Bench(watts=2.0)
    source = bench.source()
    source.start()
    assert source.read_j() == 0
    bench.later(1.0, watts=4.0)
    bench.polls[0]()
    bench.later(0.5, watts=4.0)
    assert source.read_j() == pytest.approx(1.0 * 3.0 + 0.5 * 4.0)


def test_a_second_start_begins_at_zero_and_skips_the_pause():
    bench = Bench(watts=2.0)
    source = bench.source()
    source.start()
    bench.later(1.0, watts=2.0)
    source.stop()
    assert not bench.polls
    bench.later(100.0, watts=2.0)
    source.start()
    bench.later(1.0, watts=2.0)
    assert source.read_j() == pytest.approx(2.0)


def test_a_failure_between_two_readings_is_not_forgotten():
    bench = Bench(watts=2.0)
    source = bench.source()
    source.start()
    bench.failure = SourceError("The chip is asleep")
    bench.polls[0]()
    bench.failure = None
    with pytest.raises(SourceError, match="asleep"):
        source.read_j()


@pytest.mark.parametrize("watts", [-1.0, float("nan"), float("inf")])
def test_an_impossible_power_is_refused(watts):
    with pytest.raises(SourceError, match="power is impossible"):
        Bench(watts).source().start()


def test_a_thread_polls_until_it_is_stopped():
    called = threading.Event()
    stop = every(called.set, 0.001)
    assert called.wait(10)
    stop()
    assert "energy" not in [thread.name for thread in threading.enumerate()]


def test_the_first_reading_of_a_counter_is_zero():
    total = [100.0]
    source = CounterSource("meter", lambda: total[0], tier="measured", resolution_s=0.1)
    source.start()
    total[0] = 107.5
    assert source.read_j() == 7.5
    total[0] = float("nan")
    with pytest.raises(SourceError, match="counter fell"):
        source.read_j()


def test_the_output_of_a_command_is_returned():
    assert run_command([sys.executable, "-c", "print('volts')"]).strip() == "volts"


def test_a_command_that_fails_says_how():
    with pytest.raises(SourceError, match=r"failed with code 3.*no permission"):
        run_command([sys.executable, "-c", "import sys; sys.stderr.write('no permission'); sys.exit(3)"])


def test_a_command_that_is_absent_says_so(tmp_path):
    with pytest.raises(SourceError, match="cannot be run"):
        run_command([str(tmp_path / "absent")])
