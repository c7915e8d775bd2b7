"""What the machine was, and what state it was in, when something was measured on it."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "ai-edge-litert", "onnxruntime")
_PLAUSIBLE_C = (-40.0, 150.0)  # sensors that are absent or asleep report values far outside


@dataclass(frozen=True)
class MachineState:
    """A machine at one moment; whatever it does not tell is null.

    Attributes:
        board: its model, where firmware names one (Raspberry Pi and the like).
        cpu_model: name of its processor.
        logical_cores: how many the system sees.
        governor: frequency governor; several, joined by commas, when cores differ.
        clocks_hz: current clock of each core, Hz.
        temperature_c: of the hottest thermal zone, degrees Celsius.
        load_average: over 1, 5 and 15 minutes, runnable tasks.
        os: system and release.
        architecture: of its instructions, such as ``aarch64``.
        python: version.
        versions: of numpy and of the engines that are installed.
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


def machine_state(root: Path = Path("/")) -> MachineState:
    """Returns the state of this machine now.

    Args:
        root: where ``proc`` and ``sys`` are mounted.
    """
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    return MachineState(
        board=_read(root / "proc/device-tree/model"),
        cpu_model=_cpu_model(cpuinfo),
        logical_cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None,
        governor=_governor(root),
        clocks_hz=_clocks_hz(root, cpuinfo),
        temperature_c=_temperature_c(root),
        load_average=_load_average(root),
        os=f"{platform.system()} {platform.release()}".strip() or None,
        architecture=platform.machine() or None,
        python=platform.python_version(),
        versions=_versions(),
    )


def _read(path: Path) -> str | None:
    """Returns the stripped text of a file, or none when it is absent, unreadable or empty."""
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
    return None


def _core_folders(root: Path) -> list[Path]:
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("cpu")))


def _governor(root: Path) -> str | None:
    found = {_read(folder / "cpufreq/scaling_governor") for folder in _core_folders(root)} - {None}
    return ", ".join(sorted(governor for governor in found if governor)) or None


def _clocks_hz(root: Path, cpuinfo: str) -> tuple[float, ...] | None:
    khz = [_number(_read(folder / "cpufreq/scaling_cur_freq")) for folder in _core_folders(root)]
    clocks = tuple(value * 1e3 for value in khz if value is not None)
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


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
