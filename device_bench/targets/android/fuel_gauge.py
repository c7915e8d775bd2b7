"""Energy of a phone from the fuel gauge of its battery: current times voltage. Not yet tried on a phone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from device_bench.clock import Clock
from device_bench.energy.source import NoSource, PolledPower, SourceError, Watch

from .state import Battery, Shell, parse_battery

# status, µA and µV of the first gauge that can be read; the names are those of most makers' kernels
READ = (
    "for d in battery bms maxfg; do g=/sys/class/power_supply/$d; [ -r $g/current_now ] && [ -r $g/voltage_now ] && "
    'echo "$(cat $g/status) $(cat $g/current_now) $(cat $g/voltage_now)" && exit 0; done; exit 1'
)
READ_SERVICE = "cmd battery get -f current_now || cmd battery get current_now"
"""What newer Android tells where its kernel's files are closed; the voltage then comes from ``dumpsys battery``."""

_LINE = re.compile(r"([A-Za-z ]*?) ?(-?\d{1,12}) (\d{1,12})\s*", re.ASCII)
_POLL_S, _PROBE_S, _CHANGES = 0.25, 15.0, 4
_FASTEST_S = 1.0
_MILLIAMPERES = 20_000  # below it a figure is no µA of a phone that is awake, but the mA of some makers
_MOST_A, _VOLTS = 6.0, (2.5, 14.0)
_UNPLUG = (
    "connect adb over Wi-Fi instead (adb tcpip 5555, then adb connect ADDRESS:5555), unplug the phone, and measure "
    "again"
)


@dataclass(frozen=True)
class Reading:
    """One reading of the gauge.

    Attributes:
        amperes: discharge current, A, without the sign, which differs between makers.
        volts: voltage of the battery, V.
        raw: the current as the gauge gives it.
        milliamperes: whether ``raw`` is in mA; the unit of the kernel is µA.
    """

    amperes: float
    volts: float
    raw: int
    milliamperes: bool


def find_gauge(
    shell: Shell,
    battery: Battery,
    *,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    watch: Watch | None = None,
) -> PolledPower | NoSource:
    """Returns the polled power of a phone's battery, or the reason why it cannot be read.

    The power is that of the whole phone with display and radios. The gauge is watched first, to read it as often as it
    changes.

    Args:
        shell: runs a line of shell on the phone.
        battery: current state of the battery.
        clock: a monotonic clock in nanoseconds.
        sleep: waits for some seconds.
        watch: see ``PolledPower``.
    """
    if battery.faked:
        return NoSource("Somebody had this phone tell a false battery. Run: adb shell dumpsys battery reset.")
    if battery.plugged or battery.charging:
        plug = " and ".join(battery.plugged) or "a charger"
        return NoSource(
            f"The phone is on {plug} power, so its fuel gauge tells what goes into the battery, not what the phone "
            f"draws: {_UNPLUG}."
        )
    try:
        first = read_gauge(shell)
        period_s = _period_s(shell, clock, sleep)
    except SourceError as error:
        return NoSource(f"The fuel gauge of this phone cannot be read. {error}")
    if period_s is None:
        return NoSource(f"The fuel gauge of this phone did not change within {_PROBE_S:g} s.")
    interval_s = max(_FASTEST_S, period_s)
    unit = "mA" if first.milliamperes else "µA"
    source = PolledPower(
        f"fuel gauge, whole phone, current in {unit} times voltage, changes every {period_s:.1f} s, "
        f"read every {interval_s:.1f} s",
        lambda: _watts(shell),
        interval_s=interval_s,
        clock=clock,
        watch=watch,
    )
    source.remark = "The power of the whole phone, display and radios included; makers differ in the current's sign."
    return source


def read_gauge(shell: Shell) -> Reading:
    """Reads the gauge once.

    Makers differ in the sign of the current, so it is dropped: the phone must not be charging.

    Raises:
        SourceError: there is no gauge, the battery is charging, or a value is impossible.
    """
    text = shell(READ)
    if text is None:
        text = _by_service(shell)
    found = _LINE.fullmatch(text)
    if found is None:
        raise SourceError("The gauge tells no current and voltage", got=repr(text[:80]))
    status, raw, volts = found.group(1).strip(), int(found.group(2)), int(found.group(3)) * 1e-6
    if status in ("Charging", "Full"):
        raise SourceError("The phone was plugged in", got=status, fix=f"For its energy, {_UNPLUG}")
    milliamperes = abs(raw) < _MILLIAMPERES
    amperes = abs(raw) * (1e-3 if milliamperes else 1e-6)
    low, high = _VOLTS
    if not (low <= volts <= high and 0 < amperes <= _MOST_A):
        raise SourceError("The gauge tells what cannot be", got=f"{amperes:g} A at {volts:g} V")
    return Reading(amperes, volts, raw, milliamperes)


def _watts(shell: Shell) -> float:
    reading = read_gauge(shell)
    return reading.amperes * reading.volts


def _by_service(shell: Shell) -> str:
    current = (shell(READ_SERVICE) or "").strip().splitlines()
    battery = parse_battery(shell("dumpsys battery") or "")
    numbers = [line for line in current if re.fullmatch(r"-?\d{1,12}", line.strip(), re.ASCII)]
    if not numbers or battery.voltage_v is None:
        raise SourceError(
            "Neither the kernel nor the battery service tells a current",
            fix="Newer Android tells it (adb shell cmd battery get current_now), as does a phone with root",
        )
    status = "Charging" if battery.charging or battery.plugged else "Discharging"
    return f"{status} {int(numbers[-1])} {round(battery.voltage_v * 1e6)}"


def _period_s(shell: Shell, clock: Clock, sleep: Callable[[float], None]) -> float | None:
    """Returns the interval at which the gauge changes, s; None if it does not change while it is watched."""
    start, last, changes = clock(), read_gauge(shell), list[int]()
    while (clock() - start) * 1e-9 < _PROBE_S and len(changes) < _CHANGES:
        sleep(_POLL_S)
        now = read_gauge(shell)
        if (now.raw, now.volts) != (last.raw, last.volts):
            changes.append(clock())
        last = now
    if not changes:
        return None
    if len(changes) == 1:
        return max(changes[0] - start, clock() - changes[0]) * 1e-9
    return (changes[-1] - changes[0]) * 1e-9 / (len(changes) - 1)
