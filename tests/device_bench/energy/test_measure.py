import importlib.util
from pathlib import Path

import pytest

from device_bench.energy import measure
from device_bench.energy.measure import UPDATES, WINDOW_S, find_source, measure_energy
from device_bench.energy.source import CounterSource, EnergyKind, NoSource, SourceError, Surroundings
from runtime import MeasurementError
from runtime.registry import Registry

PMIC = "VDD_CORE_A current(7)=2.0A\nVDD_CORE_V volt(15)=0.9V\n"


class World:
    """A device of known power: 5 W idle, 20 W at work, and each run takes 0.25 s; its source counts exactly."""

    name, tier, resolution_s = "meter", "measured", 0.01
    remark: str | None = None

    def __init__(self, idle_w: float = 5.0, work_w: float = 20.0, run_s: float = 0.25) -> None:
        self.idle_w, self.work_w, self.run_s = idle_w, work_w, run_s
        self.ns, self.joules, self.log = 0, 1000.0, []
        self.fails_at: int | None = None
        self.base = 0.0
        self.reads = 0

    def clock(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.log.append("sleep")
        self._pass(seconds, self.idle_w)

    def run(self) -> None:
        self.log.append("run")
        self._pass(self.run_s, self.work_w)

    def _pass(self, seconds: float, watts: float) -> None:
        self.ns += round(seconds * 1e9)
        self.joules += seconds * watts

    def start(self) -> None:
        self.log.append("start")
        self.base = self.joules

    def read_j(self) -> float:
        self.reads += 1
        if self.fails_at == self.reads:
            raise SourceError("The counter is gone")
        return self.joules - self.base

    def stop(self) -> None:
        self.log.append("stop")

    def measure(self, images: int = 1, **options):
        return measure_energy(self.run, images, self, clock=self.clock, sleep=self.sleep, **options)


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def absent(name):
    raise ModuleNotFoundError(name=name)


def test_idle_power_is_taken_off():
    energy = World().measure(images=2)
    assert (energy.tier, energy.source, energy.reason) == ("measured", "meter", None)
    assert energy.idle_w == pytest.approx(5.0)
    assert energy.window_s == pytest.approx((1.0, 1.0, 1.0))
    assert energy.joules == pytest.approx((20.0, 20.0, 20.0))
    assert energy.images == (8, 8, 8)
    assert energy.total_joules_per_image == pytest.approx(20.0 / 8)
    assert energy.joules_per_image == pytest.approx((20.0 - 5.0) / 8)


def test_the_order_is_a_warm_run_then_idle_then_the_windows():
    world = World(run_s=1.0)
    world.measure(windows=2)
    assert world.log == ["run", "start", "sleep", "run", "run", "stop"]


def test_a_window_ends_with_the_run_that_fills_it():
    energy = World(run_s=0.4).measure(windows=1)
    assert energy.window_s == pytest.approx((1.2,))
    assert energy.images == (3,)


def test_a_slow_source_gets_long_windows():
    world = World()
    world.resolution_s = 0.1
    energy = world.measure(windows=1)
    assert energy.window_s == pytest.approx((UPDATES * 0.1,))
    assert WINDOW_S < UPDATES * 0.1


def test_a_window_can_be_chosen_down_to_what_the_source_allows():
    world = World(run_s=0.05)
    assert world.measure(windows=1, window_s=0.2).window_s == pytest.approx((0.2,))
    for wrong in (0.19, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MeasurementError, match="too short"):
            world.measure(window_s=wrong)


def test_work_that_draws_less_than_idle_is_nothing_never_less():
    energy = World(idle_w=30.0).measure()
    assert energy.joules_per_image == 0.0
    assert energy.total_joules_per_image == pytest.approx(5.0)


def test_a_source_that_counts_nothing_gives_no_figure():
    world = World(idle_w=0.0, work_w=0.0)
    energy = world.measure()
    assert energy.tier == "unavailable"
    assert "counted nothing" in (energy.reason or "")
    assert energy.joules_per_image is None


@pytest.mark.parametrize("reading", [1, 2, 3, 4])
def test_a_source_that_is_lost_on_the_way_gives_a_reason_and_is_stopped(reading):
    world = World()
    world.fails_at = reading
    energy = world.measure()
    assert (energy.tier, energy.joules) == ("unavailable", ())
    assert "meter: The counter is gone" in (energy.reason or "")
    assert world.log[-1] == "stop"


def test_no_source_is_unavailable_without_a_run():
    energy = measure_energy(lambda: pytest.fail("it ran"), 1, NoSource("There is no meter."))
    assert (energy.tier, energy.reason) == ("unavailable", "There is no meter.")
    assert "--country" in (energy.carbon_reason or "")


def test_the_remark_of_a_source_is_kept():
    world = World()
    world.remark = "Not measured, because."
    assert world.measure().reason == "Not measured, because."


def test_a_country_gives_grams():
    world = World()

    class Modules:
        @staticmethod
        def DataSource():  # noqa: N802
            return Modules

        @staticmethod
        def get_global_energy_mix_data():
            return {"DEU": {"carbon_intensity": 360.0}}

    energy = world.measure(country="DEU", importer=lambda name: Modules)
    assert (energy.country, energy.grams_per_kwh, energy.carbon_reason) == ("DEU", 360.0, None)
    assert energy.grams_co2_per_image == pytest.approx(5.0 / 3.6e6 * 360.0)


def test_a_wrong_country_is_told_before_anything_runs():
    world = World()
    with pytest.raises(MeasurementError, match="no country"):
        world.measure(country="Germany")
    assert world.log == []


@pytest.mark.parametrize(("images", "windows"), [(0, 3), (-1, 3), (1, 0)])
def test_numbers_out_of_range_are_refused(images, windows):
    with pytest.raises(MeasurementError, match="must be positive"):
        World().measure(images=images, windows=windows)


def test_a_run_that_fails_is_an_error_and_the_source_is_stopped():
    world = World()
    runs = []

    def run():
        runs.append(1)
        if len(runs) == 3:
            raise RuntimeError("out of memory")
        world.run()

    with pytest.raises(MeasurementError, match=r"failed while its energy was measured.*out of memory"):
        measure_energy(run, 1, world, clock=world.clock, sleep=world.sleep)
    assert world.log[-1] == "stop"


def test_a_clock_that_stands_still_or_runs_back_is_refused():
    world = World()
    with pytest.raises(MeasurementError, match="stood still"):
        measure_energy(world.run, 1, world, clock=lambda: 7, sleep=world.sleep)
    times = iter(range(0, -100, -1))
    with pytest.raises(MeasurementError, match="ran backwards"):
        measure_energy(world.run, 1, world, clock=lambda: next(times), sleep=world.sleep)


def test_progress_counts_the_idle_window_too():
    told = []
    World().measure(windows=2, progress=lambda stage, done, total, note="": told.append((stage, done, total)))
    assert told == [("energy", 1, 3), ("energy", 2, 3), ("energy", 3, 3)]


def test_rapl_comes_first(tmp_path):
    for file, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "1000000")):
        put(tmp_path, f"sys/class/powercap/intel-rapl:0/{file}", text)
    source = find_source("cpu", Surroundings(tmp_path, absent))
    assert (source.name, source.tier) == ("RAPL package-0", "measured")


def test_a_raspberry_pi_is_asked_through_its_chip(tmp_path):
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    source = find_source("cpu", Surroundings(tmp_path, absent, lambda words: PMIC))
    assert "PMIC" in source.name
    assert source.tier == "measured"


def test_without_counter_and_library_both_reasons_are_given(tmp_path):
    found = find_source("cpu", Surroundings(tmp_path, absent))
    assert isinstance(found, NoSource)
    assert "no RAPL package" in found.reason
    assert "pip install 'pocketvit[energy]'" in found.reason


@pytest.mark.skipif(not importlib.util.find_spec("codecarbon"), reason="codecarbon is not installed")
def test_an_estimate_says_why_nothing_was_measured(tmp_path):
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD Ryzen 7 5800X 8-Core Processor\n")
    source = find_source("cpu", Surroundings(tmp_path))
    assert source.tier == "estimated"
    assert "no RAPL package" in (source.remark or "")
    energy = measure_energy(lambda: sum(range(20_000)), 1, source, country="DEU", window_s=0.05)
    assert energy.tier == "estimated"
    assert "TDP of 105 W" in (energy.source or "")
    assert min(energy.joules) > 0
    assert max(energy.joules) < 105 * 60
    assert "no RAPL package" in (energy.reason or "")
    assert energy.grams_co2_per_image > 0


def test_a_further_source_that_measures_comes_before_an_estimate(tmp_path, monkeypatch):
    places = {"tdp": "device_bench.energy.tdp:TDP", "rapl": "device_bench.energy.rapl:RAPL"}
    known = Registry("energy source", places)
    meter = CounterSource("a meter", lambda: 1.0, tier="measured", resolution_s=0.1)
    known.register("meter", EnergyKind("cpu", "measured", lambda own: meter))
    monkeypatch.setattr(measure, "SOURCES", known)
    assert find_source("cpu", Surroundings(tmp_path, absent)) is meter


@pytest.mark.parametrize("target", ["cuda", "cuda:1"])
def test_a_gpu_is_asked_through_nvml(tmp_path, target):
    found = find_source(target, Surroundings(tmp_path, absent))
    assert isinstance(found, NoSource)
    assert "nvidia-ml-py" in found.reason


@pytest.mark.parametrize("target", ["ssh:pi", "cuda:x", ""])
def test_another_target_is_not_read_from_here(tmp_path, target):
    found = find_source(target, Surroundings(tmp_path, absent))
    assert isinstance(found, NoSource)
    assert "from this machine" in found.reason
