"""The state of an Android phone: processor, clocks, heat and battery, read by its shell's tools."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from device_bench.machine.state import MachineState

Shell = Callable[[str], str | None]
"""Runs a line of shell on the phone and returns its output, or None if it fails."""

THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's names of the levels of throttling, by number."""

LOW_BATTERY = 0.2
"""Charge below which many phones save power, 0..1."""

_CHARGING, _FULL = 2, 5  # BatteryManager.BATTERY_STATUS_*
_CPU_SENSOR = 0
_DEGREES = (
    0,
    1,
    2,
    3,
    4,
    5,
    9,
    10,
    11,
    12,
)  # kinds of sensor whose value is a temperature: not those of the battery's limits
_PLAUSIBLE_C = (-40.0, 150.0)
_SENSOR = re.compile(r"Temperature\{mValue=(-?[\d.]+(?:E-?\d+)?), mType=(-?\d+), mName=([^,}]*), mStatus=(\d)\}")
_CORES = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"


@dataclass(frozen=True)
class Battery:
    """The battery of a phone, from ``dumpsys battery``; what is not known is None.

    Attributes:
        plugged: names of the chargers that are connected, such as ``USB``.
        charging: whether it is charging, or full on a charger.
        level: charge, 0..1.
        voltage_v: voltage, V.
        temperature_c: temperature, degrees Celsius.
        faked: whether somebody set the values of ``dumpsys battery`` by hand.
    """

    plugged: tuple[str, ...] = ()
    charging: bool | None = None
    level: float | None = None
    voltage_v: float | None = None
    temperature_c: float | None = None
    faked: bool = False


@dataclass(frozen=True)
class Sensor:
    """One temperature sensor.

    Attributes:
        name: name given by the maker.
        kind: Android's number: 0 processor, 1 GPU, 2 battery, 3 skin, 9 neural processor, and more.
        celsius: temperature, degrees Celsius.
    """

    name: str
    kind: int
    celsius: float


@dataclass(frozen=True)
class Thermal:
    """The heat of a phone, from ``dumpsys thermalservice``.

    Attributes:
        status: amount of throttling, an index into ``THERMAL_STATUS``; None if unknown.
        sensors: temperature sensors.
    """

    status: int | None = None
    sensors: tuple[Sensor, ...] = ()

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature of the processor's sensors, or of all if there are none; None without sensors."""
        own = [sensor.celsius for sensor in self.sensors if sensor.kind == _CPU_SENSOR]
        return max(own or [sensor.celsius for sensor in self.sensors], default=None)


@dataclass(frozen=True)
class AndroidState:
    """The state of a phone at one moment.

    Attributes:
        machine: state that every kind of machine has.
        battery: state of the battery.
        thermal: heat.
        sdk: API level, such as 34; None if unknown.
        saving: whether the battery saver is on; None if unknown.
        emulator: whether it is Android's emulator instead of a phone.
        emulated: whether the processor is emulated by instruction, so that times mean nothing.
    """

    machine: MachineState
    battery: Battery
    thermal: Thermal
    sdk: int | None
    saving: bool | None
    emulator: bool
    emulated: bool


def read_state(shell: Shell) -> AndroidState:
    """Returns the current state of the phone; what is not known is None.

    Args:
        shell: runs a line of shell on the phone.
    """
    properties = parse_properties(shell("getprop") or "")
    thermal = parse_thermal(shell("dumpsys thermalservice") or "")
    saving = (shell("settings get global low_power") or "").strip()
    emulator = "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu"))
    sdk = properties.get("ro.build.version.sdk", "")
    return AndroidState(
        machine=_machine(shell, properties, thermal, emulator),
        battery=parse_battery(shell("dumpsys battery") or ""),
        thermal=thermal,
        sdk=int(sdk) if re.fullmatch(r"\d{1,4}", sdk, re.ASCII) else None,
        saving=saving == "1" if saving in ("0", "1") else None,
        emulator=emulator,
        emulated=shell("test -e /etc/pocketvit-emulated && echo yes") is not None,
    )


def parse_properties(text: str) -> dict[str, str]:
    r"""Returns the properties in the output of ``getprop``.

    >>> parse_properties("[ro.product.model]: [Example 7]\n[ro.build.version.sdk]: [34]\n")["ro.product.model"]
    'Example 7'
    """
    return dict(re.findall(r"^\[([^\]\n]+)\]: \[(.*)\]\r?$", text, re.MULTILINE))


def parse_battery(text: str) -> Battery:
    """Parses the output of ``dumpsys battery``; of any other text nothing is known."""
    fields = dict(re.findall(r"^ {2}([A-Za-z][\w ]*): (\S+)\s*$", text.partition("[")[0], re.MULTILINE))
    numbers = {name: int(word) for name, word in fields.items() if re.fullmatch(r"-?\d{1,12}", word, re.ASCII)}
    plugged = tuple(name.removesuffix(" powered") for name, word in fields.items() if _is_plug(name) and word == "true")
    status, level, scale = numbers.get("status"), numbers.get("level"), numbers.get("scale", 100)
    volts, degrees = numbers.get("voltage"), numbers.get("temperature")
    return Battery(
        plugged=plugged,
        charging=None if status is None else status == _CHARGING or (status == _FULL and bool(plugged)),
        level=level / scale if level is not None and 0 <= level <= scale and scale > 0 else None,
        # mV; some makers give µV
        voltage_v=volts / (1e6 if volts > 100_000 else 1e3) if volts is not None and volts > 0 else None,
        temperature_c=degrees / 10 if degrees is not None and _plausible(degrees / 10) else None,
        faked="UPDATES STOPPED" in text,
    )


def parse_thermal(text: str) -> Thermal:
    """Parses the output of ``dumpsys thermalservice``: the current values of the sensors, or else the last ones."""
    status = re.search(r"^Thermal Status: ([0-6])\s*$", text, re.MULTILINE)
    now = re.search(r"^Current temperatures from HAL:$(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    found = _SENSOR.findall(now.group(1) if now else "") or _SENSOR.findall(text)
    sensors = [Sensor(name, int(kind), float(value)) for value, kind, name, _ in found if int(kind) in _DEGREES]
    return Thermal(
        int(status.group(1)) if status else None,
        # a sensor that is not fitted reads 0
        tuple(dict.fromkeys(one for one in sensors if one.celsius != 0 and _plausible(one.celsius))),
    )


def parse_cores(text: str) -> dict[str, tuple[str, ...]]:
    r"""Returns the lines of ``grep -H`` on the cores' files by file name, in the order of the cores.

    >>> parse_cores("/sys/devices/system/cpu/cpu10/cpufreq/x:b\n/sys/devices/system/cpu/cpu2/cpufreq/x:a\n")
    {'x': ('a', 'b')}
    """
    found = re.findall(r"/cpu(\d{1,5})/cpufreq/(\w+):(\S.*?)\s*$", text, re.MULTILINE)
    ordered = sorted((int(core), name, word) for core, name, word in found)
    names = dict.fromkeys(name for _, name, _ in ordered)
    return {name: tuple(word for _, own, word in ordered if own == name) for name in names}


def state_notes(before: AndroidState, after: AndroidState) -> tuple[str, ...]:
    """Returns notes for the reader on a phone measured between two states."""
    notes = []
    worst = max((state.thermal.status or 0 for state in (before, after)), default=0)
    if worst:
        first, last = (_status(state.thermal) for state in (before, after))
        notes.append(
            f"The phone throttles for its heat: its thermal status was {first} before and {last} after. Let it cool, "
            "and measure again."
        )
    elif before.thermal.status is None or after.thermal.status is None:
        notes.append("The phone does not tell whether it throttles for its heat.")
    if after.saving:
        notes.append("The phone's battery saver is on, which holds its clocks down.")
    if after.battery.charging:
        notes.append("The phone was charging, which warms it and may hold its clocks down.")
    if after.battery.level is not None and after.battery.level < LOW_BATTERY and not after.battery.plugged:
        notes.append(f"The battery is at {after.battery.level:.0%}: many phones save power then.")
    if after.emulator:
        notes.append("This is Android's emulator: its times are of the computer it runs on.")
    return tuple(notes)


def state_words(state: AndroidState) -> str:
    """Returns a short text on the heat and battery of a phone."""
    words = [f"thermal status {_status(state.thermal)}"]
    if state.battery.level is not None:
        words.append(f"battery {state.battery.level:.0%}")
    if state.battery.temperature_c is not None:
        words.append(f"battery at {state.battery.temperature_c:.1f} °C")
    if state.battery.plugged:
        words.append(f"on {' and '.join(state.battery.plugged)} power")
    return ", ".join(words)


def _status(thermal: Thermal) -> str:
    return "unknown" if thermal.status is None else f"{thermal.status} ({THERMAL_STATUS[thermal.status]})"


def _machine(shell: Shell, properties: Mapping[str, str], thermal: Thermal, emulator: bool) -> MachineState:
    cpuinfo = shell("cat /proc/cpuinfo") or ""
    names = ("scaling_governor", "scaling_cur_freq", "cpuinfo_max_freq", "scaling_driver")
    # grep fails when one of the files cannot be read, and has written the others by then
    cores = parse_cores(shell(f"grep -H . {' '.join(f'{_CORES}/{name}' for name in names)} 2>/dev/null; true") or "")
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", shell("cat /proc/meminfo") or "", re.MULTILINE)
    uptime = re.match(r"\d+(?:\.\d+)?", shell("cat /proc/uptime") or "")
    return MachineState(
        board=" ".join(_told(properties, "ro.product.manufacturer", "ro.product.model")) or None,
        cpu_model=_chip(properties, cpuinfo),
        logical_cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None,
        governor=", ".join(sorted(set(cores.get("scaling_governor", ())))) or None,
        clocks_hz=_hertz(cores.get("scaling_cur_freq", ())),
        temperature_c=thermal.hottest_c,
        load_average=_load(shell("cat /proc/loadavg") or ""),
        os=f"Android {properties['ro.build.version.release']}" if "ro.build.version.release" in properties else None,
        architecture=properties.get("ro.product.cpu.abi"),
        python=None,
        versions={},
        max_clocks_hz=_hertz(cores.get("cpuinfo_max_freq", ())),
        clock_driver=", ".join(sorted(set(cores.get("scaling_driver", ())))) or None,
        uptime_s=float(uptime.group()) if uptime else None,
        memory_bytes=int(memory.group(1)) * 1024 if memory else None,
        virtualised=True if emulator else None,
    )


def _told(properties: Mapping[str, str], *names: str) -> list[str]:
    return [properties[name] for name in names if properties.get(name) not in (None, "", "unknown")]


def _chip(properties: Mapping[str, str], cpuinfo: str) -> str | None:
    named = " ".join(_told(properties, "ro.soc.manufacturer", "ro.soc.model"))
    hardware = re.search(r"^Hardware\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    others = _told(properties, "ro.board.platform", "ro.hardware")
    return named or (hardware.group(1).strip() if hardware else None) or (others[0] if others else None)


def _hertz(kilohertz: Sequence[str]) -> tuple[float, ...] | None:
    return tuple(int(word) * 1e3 for word in kilohertz if re.fullmatch(r"\d{1,9}", word, re.ASCII)) or None


def _load(text: str) -> tuple[float, float, float] | None:
    found = re.match(r"(\d+\.\d+) (\d+\.\d+) (\d+\.\d+) ", text, re.ASCII)
    return (float(found[1]), float(found[2]), float(found[3])) if found else None


def _is_plug(name: str) -> bool:
    return name in ("AC powered", "USB powered", "Wireless powered", "Dock powered")


def _plausible(celsius: float) -> bool:
    low, high = _PLAUSIBLE_C
    return low <= celsius <= high
