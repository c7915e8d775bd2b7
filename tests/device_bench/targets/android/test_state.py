from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace

import pytest

from device_bench.energy.source import NoSource, PolledPower, SourceError
from device_bench.targets.android import client as adb_client
from device_bench.targets.android import fuel_gauge
from device_bench.targets.android import state as android_state
from device_bench.targets.android.fuel_gauge import READ, READ_SERVICE, find_gauge, read_gauge
from device_bench.targets.android.state import (
    Battery,
    Thermal,
    parse_battery,
    parse_cores,
    parse_properties,
    parse_thermal,
    read_state,
    state_notes,
    state_words,
)

from .phone import recorded

CORES = "".join(
    f"/sys/devices/system/cpu/cpu{core}/cpufreq/{name}:{word}\n"
    for core, clock, most in ((10, 2800000, 3200000), (0, 300000, 1800000))
    for name, word in (
        ("scaling_governor", "schedutil" if core else "sched_pixel"),
        ("scaling_cur_freq", clock),
        ("cpuinfo_max_freq", most),
        ("scaling_driver", "cpufreq-dt"),
    )
)
CPUINFO = "processor\t: 0\nCPU part\t: 0xd05\n\nprocessor\t: 10\nCPU part\t: 0xd44\n\nHardware\t: Example Board\n"


def phone(**more: str) -> Callable[[str], str | None]:
    answers = {
        "getprop": recorded("getprop.txt"),
        "dumpsys battery": recorded("battery.txt"),
        "dumpsys thermalservice": recorded("thermalservice.txt"),
        "settings get global low_power": "1\n",
        "cat /proc/cpuinfo": CPUINFO,
        "cat /proc/meminfo": "MemTotal:        7579252 kB\nMemFree: 1 kB\n",
        "cat /proc/uptime": "8123.45 1.00\n",
        "cat /proc/loadavg": "1.25 2.50 3.75 2/1234 5678\n",
        **more,
    }
    return lambda line: CORES if line.startswith("grep -H") else answers.get(line)


def silent_phone(line: str) -> str | None:
    return None


def test_the_state_of_a_phone_is_read_whole() -> None:
    state = read_state(phone())
    machine = state.machine
    assert machine.board == "Example Phone 7 [test]"
    assert machine.cpu_model == "Maker SoC1234"
    assert machine.logical_cores == 2
    assert machine.governor == "sched_pixel, schedutil"
    assert machine.clocks_hz == (0.3e9, 2.8e9)
    assert machine.max_clocks_hz == (1.8e9, 3.2e9)
    assert machine.clock_driver == "cpufreq-dt"
    assert machine.temperature_c == 71.25
    assert machine.load_average == (1.25, 2.5, 3.75)
    assert (machine.os, machine.architecture, machine.uptime_s) == ("Android 14", "arm64-v8a", 8123.45)
    assert machine.memory_bytes == 7579252 * 1024
    assert machine.python is None
    assert (state.sdk, state.saving, state.emulator, state.emulated) == (34, True, False, False)
    assert state.battery == Battery(("USB",), True, 0.81, 4.352, 27.4)
    assert state_words(state) == ("thermal status 2 (moderate), battery 81%, battery at 27.4 °C, on USB power")


def test_a_phone_that_tells_nothing_gives_nothing() -> None:
    state = read_state(silent_phone)
    told = {name: value for name, value in vars(state.machine).items() if value not in (None, {})}
    assert told == {}
    assert (state.sdk, state.saving, state.battery, state.thermal) == (None, None, Battery(), Thermal())
    assert state_words(state) == "thermal status unknown"


def test_garbage_gives_nothing() -> None:
    junk = "\0[x]: y\n  level: many\nThermal Status: 9\nTemperature{mValue=, mType=0}\n" + "9" * 5000
    state = read_state(lambda line: junk)
    assert state.battery == Battery()
    assert state.thermal == Thermal()
    assert state.machine.board is None
    assert state.machine.clocks_hz is None


def test_an_emulator_and_an_emulated_phone_are_known() -> None:
    properties = recorded("getprop.txt").replace("[ro.boot.qemu]: [0]", "[ro.boot.qemu]: [1]")
    state = read_state(phone(getprop=properties))
    assert state.emulator
    assert state.machine.virtualised
    assert read_state(phone(**{"test -e /etc/pocketvit-emulated && echo yes": "yes\n"})).emulated


def test_the_chip_is_named_by_older_phones_too() -> None:
    properties = "".join(line for line in recorded("getprop.txt").splitlines(keepends=True) if "ro.soc" not in line)
    assert read_state(phone(getprop=properties)).machine.cpu_model == "Example Board"
    state = read_state(phone(getprop=properties, **{"cat /proc/cpuinfo": "processor\t: 0\n"}))
    assert state.machine.cpu_model == "example1"


def test_a_log_below_the_battery_is_not_the_battery() -> None:
    assert parse_battery(recorded("battery.txt")).level == 0.81


def test_a_battery_on_a_charger_charges_when_it_is_full_too() -> None:
    text = recorded("battery.txt")
    assert parse_battery(text.replace("status: 2", "status: 5")).charging
    assert not parse_battery(text.replace("status: 2", "status: 3")).charging
    assert not parse_battery(recorded("battery_unplugged.txt").replace("status: 3", "status: 5")).charging
    assert parse_battery(recorded("battery_unplugged.txt")).plugged == ()


def test_a_voltage_in_microvolts_and_a_faked_battery_are_known() -> None:
    text = recorded("battery.txt")
    assert parse_battery(text.replace("4352", "4352000")).voltage_v == pytest.approx(4.352)
    assert parse_battery(text.replace(":\n", ":\n  (UPDATES STOPPED -- use 'reset' to restart)\n", 1)).faked


def test_what_the_sensors_say_now_counts_and_not_what_they_said_last() -> None:
    thermal = parse_thermal(recorded("thermalservice.txt"))
    assert thermal.status == 2
    assert {sensor.name for sensor in thermal.sensors} == {"CPU0", "CPU4", "GPU", "battery"}
    assert thermal.hottest_c == 71.25
    cached = recorded("thermalservice.txt").partition("HAL Ready")[0]
    assert parse_thermal(cached).hottest_c == 99.0
    skin = "Current temperatures from HAL:\n\tTemperature{mValue=3.05E1, mType=3, mName=skin, mStatus=0}\n"
    assert parse_thermal(skin).hottest_c == 30.5


def test_notes_tell_what_holds_a_phone_back() -> None:
    cool = read_state(phone(**{"settings get global low_power": "0\n", "dumpsys battery": ""}))
    cool = replace(cool, thermal=Thermal(0))
    assert state_notes(cool, cool) == ()
    hot = replace(cool, thermal=Thermal(3))
    (note,) = state_notes(cool, hot)
    assert "its thermal status was 0 (none) before and 3 (severe) after" in note
    assert len(state_notes(hot, cool)) == 1
    notes = state_notes(cool, replace(cool, battery=Battery(level=0.1), saving=True, emulator=True, thermal=Thermal()))
    assert [note.split()[0:3] for note in notes] == [
        ["The", "phone", "does"],
        ["The", "phone's", "battery"],
        ["The", "battery", "is"],
        ["This", "is", "Android's"],
    ]
    assert state_notes(cool, replace(cool, battery=Battery(("USB",), True, 0.1))) == (
        "The phone was charging, which warms it and may hold its clocks down.",
    )


def unwatched(do: Callable[[], None], seconds: float) -> Callable[[], None]:
    return lambda: None


class Gauge:
    """A shell whose gauge changes every ``every_s`` of a clock that only sleeping moves."""

    def __init__(self, every_s: float = 1.5, line: str = "Discharging {raw} 4000000", step: int = 1000) -> None:
        self.now_ns, self.every_s, self.line, self.step = 0, every_s, line, step
        self.fails = False

    def clock(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def shell(self, line: str) -> str | None:
        if line != READ or self.fails:
            return None
        return self.line.format(raw=-500000 - self.step * int(self.now_ns * 1e-9 / self.every_s))

    def find(self, battery: Battery | None = None) -> PolledPower | NoSource:
        battery = battery or parse_battery(recorded("battery_unplugged.txt"))
        return find_gauge(self.shell, battery, clock=self.clock, sleep=self.sleep, watch=unwatched)


def test_a_gauge_is_read_as_often_as_it_changes() -> None:
    gauge = Gauge(every_s=1.5, step=0)
    assert isinstance(gauge.find(), NoSource)
    gauge = Gauge(every_s=2.0)
    source = gauge.find()
    assert isinstance(source, PolledPower)
    assert source.resolution_s == pytest.approx(2.0)
    assert "current in µA times voltage, changes every 2.0 s" in source.name
    assert source.tier == "measured"
    assert source.remark is not None
    gauge.step = 0
    source.start()
    gauge.sleep(10)
    assert source.read_j() == pytest.approx(0.5 * 4.0 * 10)
    quick = Gauge(every_s=0.25).find()
    assert isinstance(quick, PolledPower)
    assert quick.resolution_s == 1.0


def test_a_phone_on_a_charger_has_no_energy() -> None:
    found = Gauge().find(parse_battery(recorded("battery.txt")))
    assert isinstance(found, NoSource)
    assert "on USB power" in found.reason
    assert "adb tcpip 5555" in found.reason
    assert isinstance(Gauge().find(Battery(faked=True)), NoSource)


def test_a_gauge_that_cannot_be_read_says_why() -> None:
    gauge = Gauge()
    gauge.fails = True
    found = gauge.find()
    assert isinstance(found, NoSource)
    assert "Neither the kernel nor the battery service tells a current" in found.reason


@pytest.mark.parametrize(
    ("line", "amperes", "milliamperes"),
    [
        ("Discharging -512345 3987654\n", 0.512345, False),
        ("Discharging 512345 3987654\n", 0.512345, False),
        ("Not charging 512 3987654\n", 0.512, True),
        (" -2000000 3987654\n", 2.0, False),
    ],
)
def test_a_current_is_read_whatever_its_sign_and_unit(line: str, amperes: float, milliamperes: bool) -> None:
    reading = read_gauge(lambda asked: line if asked == READ else None)
    assert reading.amperes == pytest.approx(amperes)
    assert reading.volts == pytest.approx(3.987654)
    assert reading.milliamperes == milliamperes


@pytest.mark.parametrize(
    "line",
    [
        "Charging 512345 3987654",
        "Full 512345 3987654",
        "Discharging 0 3987654",
        "Discharging 9000 3987654",  # 9 A are no phone's, and 9 mA neither
        "Discharging -9000000 3987654",
        "Discharging 512345 3987",
        "Discharging 512345",
        "",
        "9" * 5000,
    ],
)
def test_what_cannot_be_is_no_reading(line: str) -> None:
    with pytest.raises(SourceError):
        read_gauge(lambda asked: line if asked == READ else None)


def test_the_battery_service_tells_where_the_kernel_does_not() -> None:
    answers = {READ_SERVICE: "-350000\n", "dumpsys battery": recorded("battery_unplugged.txt")}
    reading = read_gauge(answers.get)
    assert (reading.amperes, reading.volts) == pytest.approx((0.35, 4.352))
    answers["dumpsys battery"] = recorded("battery.txt")
    with pytest.raises(SourceError, match="plugged in"):
        read_gauge(answers.get)


def test_cores_come_in_their_order_and_properties_whole() -> None:
    assert parse_cores(CORES)["cpuinfo_max_freq"] == ("1800000", "3200000")
    assert parse_cores("grep: nothing\n") == {}
    assert parse_properties("[a.b]: [c [d]]\r\n[e]: []\n") == {"a.b": "c [d]", "e": ""}


def test_the_examples_hold() -> None:
    for module in (android_state, adb_client, fuel_gauge):
        assert doctest.testmod(module).failed == 0
