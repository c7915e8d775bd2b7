"""The state of a machine during a measurement."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime.engines import ENGINES

from .arm_cores import arm_cores

_PLAUSIBLE_C = (-40.0, 150.0)  # sensors that are absent or asleep report values far outside

CommandRunner = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True)
class MachineState:
    """The state of a machine at one moment; what is not known is null.

    Attributes:
        board: model of the board, if the firmware names one, as on a Raspberry Pi.
        cpu_model: name of the processor.
        logical_cores: number of logical cores.
        governor: frequency governor; several, joined by commas, when cores differ.
        clocks_hz: current clock of each core, Hz.
        temperature_c: temperature of the hottest thermal zone, degrees Celsius.
        load_average: mean number of runnable tasks over 1, 5 and 15 minutes.
        os: name and release of the operating system.
        architecture: instruction set, such as ``aarch64``.
        python: version of Python.
        versions: versions of numpy and of the installed engines.
        affinity: numbers of the cores that this process may use.
        max_clocks_hz: the highest clock of each core, in the order of ``clocks_hz``, Hz.
        clock_driver: driver that sets the clocks, such as ``intel_pstate``; the meaning of a governor depends on it.
        throttle_count: number of times that heat slowed cores and packages since the start.
        throttled_bits: record of low voltage and throttling of a Raspberry Pi, from ``vcgencmd get_throttled``.
        uptime_s: time since the machine started, s.
        busy_s: core time that all processes used since then, s.
        own_s: part of ``busy_s`` of this process and of its finished children, s.
        steal_s: core time that a hypervisor gave to others since then, s.
        memory_bytes: memory of the machine, bytes.
        virtualised: whether the machine is virtual.
    """

    board: str | None
    cpu_model: str | None
    logical_cores: int | None
    governor: str | None
    clocks_hz: tuple[float, ...] | None
    temperature_c: float | None
    load_average: tuple[float, float, float] | None
    os: str | None
    architecture: str | None
    python: str | None
    versions: dict[str, str]
    affinity: tuple[int, ...] | None = None
    max_clocks_hz: tuple[float, ...] | None = None
    clock_driver: str | None = None
    throttle_count: int | None = None
    throttled_bits: int | None = None
    uptime_s: float | None = None
    busy_s: float | None = None
    own_s: float | None = None
    steal_s: float | None = None
    memory_bytes: int | None = None
    virtualised: bool | None = None


def command_output(command: Sequence[str]) -> str | None:
    """Returns the output of a command; None if it is absent, fails or takes over 2 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def is_emulated(root: Path = Path("/")) -> bool:
    """Returns whether this machine is an emulated board, whose times, memory and energy mean nothing."""
    return (root / "etc/pocketvit-emulated").exists()


def machine_state(root: Path = Path("/"), run: CommandRunner = command_output) -> MachineState:
    """Returns the current state of this machine.

    Args:
        root: folder in which ``proc`` and ``sys`` are mounted.
        run: runs a board's own tool and returns its output, or None.
    """
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    board = _read(root / "proc/device-tree/model") or _read(root / "sys/firmware/devicetree/base/model")
    busy_s, steal_s = _core_time_s(root)
    return MachineState(
        board=board,
        cpu_model=_cpu_model(cpuinfo),
        logical_cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None,
        governor=_shared(root, "scaling_governor"),
        clocks_hz=_clocks_hz(root, cpuinfo),
        temperature_c=_temperature_c(root),
        load_average=_load_average(root),
        os=f"{platform.system()} {platform.release()}".strip() or None,
        architecture=platform.machine() or None,
        python=platform.python_version(),
        versions=_versions(),
        affinity=_affinity(root),
        max_clocks_hz=_cpufreq_hz(root, "cpuinfo_max_freq"),
        clock_driver=_shared(root, "scaling_driver"),
        throttle_count=_throttle_count(root),
        throttled_bits=_throttled_bits(run) if board and "raspberry" in board.lower() else None,
        uptime_s=_number((_read(root / "proc/uptime") or "").partition(" ")[0]),
        busy_s=busy_s,
        own_s=_own_s(root),
        steal_s=steal_s,
        memory_bytes=_memory_bytes(root),
        virtualised=_virtualised(root, cpuinfo),
    )


def _read(path: Path) -> str | None:
    """Returns the stripped text of a file; None if it is absent, unreadable or empty."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.strip("\0 \t\n") or None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _cpu_model(cpuinfo: str) -> str | None:
    for key in ("model name", "Hardware"):
        found = re.search(rf"^{key}\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
        if found:
            return found.group(1).strip()
    return arm_cores(cpuinfo)


def _core_folders(root: Path) -> list[Path]:
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("cpu")))


def _shared(root: Path, name: str) -> str | None:
    """Returns the content of the cores' ``cpufreq`` files of that name; different ones are joined by commas."""
    found = {_read(folder / "cpufreq" / name) for folder in _core_folders(root)} - {None}
    return ", ".join(sorted(text for text in found if text)) or None


def _cpufreq_hz(root: Path, name: str) -> tuple[float, ...] | None:
    khz = [_number(_read(folder / "cpufreq" / name)) for folder in _core_folders(root)]
    return tuple(value * 1e3 for value in khz if value is not None) or None


def _clocks_hz(root: Path, cpuinfo: str) -> tuple[float, ...] | None:
    clocks = _cpufreq_hz(root, "scaling_cur_freq")
    if not clocks:
        clocks = tuple(float(mhz) * 1e6 for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo, re.MULTILINE))
    return clocks or None


def _temperature_c(root: Path) -> float | None:
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    millidegrees = [_number(_read(zone)) for zone in zones]
    low, high = _PLAUSIBLE_C
    degrees = [value / 1e3 for value in millidegrees if value is not None and low <= value / 1e3 <= high]
    return max(degrees, default=None)


def _load_average(root: Path) -> tuple[float, float, float] | None:
    numbers = [_number(word) for word in (_read(root / "proc/loadavg") or "").split()[:3]]
    one, five, fifteen = (*numbers, None, None, None)[:3]
    return None if one is None or five is None or fifteen is None else (one, five, fifteen)


def _affinity(root: Path) -> tuple[int, ...] | None:
    """Returns the cores of a list such as ``0-3,6``."""
    listed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", _read(root / "proc/self/status") or "", re.MULTILINE)
    cores: list[int] = []
    for part in listed.group(1).split(",") if listed else ():
        limits = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if limits is None:
            return None
        cores += range(int(limits.group(1)), int(limits.group(2) or limits.group(1)) + 1)
    return tuple(cores) or None


def _throttle_count(root: Path) -> int | None:
    names = ("core_throttle_count", "package_throttle_count")
    found = [_number(_read(folder / "thermal_throttle" / name)) for folder in _core_folders(root) for name in names]
    counts = [int(count) for count in found if count is not None]
    return sum(counts) if counts else None


def _throttled_bits(run: CommandRunner) -> int | None:
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)\s*", run(("vcgencmd", "get_throttled")) or "")
    return int(found.group(1), 16) if found else None


def _core_time_s(root: Path) -> tuple[float | None, float | None]:
    """Returns the core time of all processes and the time that a hypervisor gave to others, s."""
    found = re.search(r"^cpu\s+([\d ]+)$", _read(root / "proc/stat") or "", re.MULTILINE)
    ticks = [int(word) for word in found.group(1).split()] if found else []
    if len(ticks) < 8:
        return None, None
    # idle and iowait, the fourth and fifth, are not use; guests, from the ninth on, are in user and nice already
    used = sum(ticks[:3]) + sum(ticks[5:7])
    return used / _ticks_per_s(), ticks[7] / _ticks_per_s()


def _own_s(root: Path) -> float | None:
    # the second field, the process's name in parentheses, may hold spaces
    words = (_read(root / "proc/self/stat") or "").rpartition(")")[2].split()
    ticks = words[11:15]  # in user and system mode, and the same of children that were waited for
    if len(ticks) < 4 or not "".join(ticks).isdigit():
        return None
    return sum(map(int, ticks)) / _ticks_per_s()


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _memory_bytes(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", _read(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _virtualised(root: Path, cpuinfo: str) -> bool | None:
    """Returns whether the machine is virtual, from the flags of an x86 processor or the name of a hypervisor."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags and "hypervisor" in flags.group(1).split():
        return True
    if _read(root / "sys/hypervisor/type"):
        return True
    return False if flags else None


def _versions() -> dict[str, str]:
    found = {}
    for package in ("numpy", *(engine.package for engine in ENGINES.values() if engine.package)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
