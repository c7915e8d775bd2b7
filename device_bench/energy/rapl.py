"""Energy of an Intel or AMD processor from the RAPL counters, which Linux shows as files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_bench.clock import Clock
from device_bench.documents.figures import EnergyTier

from .source import EnergyKind, NoSource, SourceError

FOLDER = "sys/class/powercap"
CURE = "Run: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
_PACKAGE = re.compile(r"package-(\d+)(-die-\d+)?")
_UPDATE_S = 1e-3
_MOST_W = 1000.0  # more than any package draws: bounds how soon its counter can wrap twice
_SAME_UJ = 1e6  # two files read one after the other show one counter when they differ by less than 1 J

Read = Callable[[Path], str]


@dataclass(frozen=True)
class _Zone:
    name: str
    counter: Path
    range_uj: int


class RaplSource:
    """Energy of all processor packages of this machine.

    The counters wrap around at their range; read them often enough to notice each time.
    ``find_rapl`` makes one.
    """

    def __init__(self, zones: tuple[_Zone, ...], *, read: Read, clock: Clock) -> None:
        self.name = f"RAPL {' + '.join(zone.name for zone in zones)}"
        self.tier: EnergyTier = "measured"
        self.resolution_s = _UPDATE_S
        self.remark: str | None = None
        self._zones, self._read, self._clock = zones, read, clock
        self._longest_s = min(zone.range_uj for zone in zones) * 1e-6 / _MOST_W
        self._last: tuple[int, ...] = ()
        self._when = 0
        self._total_uj = 0

    def start(self) -> None:
        """Starts at 0 J.

        Raises:
            SourceError: a counter cannot be read.
        """
        self._last, self._when, self._total_uj = self._counters(), self._clock(), 0

    def read_j(self) -> float:
        """Returns the energy of all packages since the start, J.

        Raises:
            SourceError: a counter cannot be read, or the last reading was so long ago that it may have wrapped twice.
        """
        now, when = self._counters(), self._clock()
        gap_s = (when - self._when) * 1e-9
        if gap_s > self._longest_s:
            raise SourceError(
                "RAPL counters may have wrapped around twice between two readings",
                expected=f"at most {self._longest_s:g} s",
                got=f"{gap_s:g} s",
                fix="Measure a smaller batch, or shorter windows",
            )
        for zone, before, after in zip(self._zones, self._last, now, strict=True):
            self._total_uj += after - before if after >= before else after - before + zone.range_uj
        self._last, self._when = now, when
        return self._total_uj * 1e-6

    def stop(self) -> None:
        """Does nothing."""

    def _counters(self) -> tuple[int, ...]:
        return tuple(_counter_uj(zone, self._read) for zone in self._zones)


def find_rapl(
    root: Path = Path("/"), *, read: Read = Path.read_text, clock: Clock = time.perf_counter_ns
) -> RaplSource | NoSource:
    """Returns the processor's energy counters, or the reason why there are none.

    Only whole packages count, not cores, memory or ``psys``, which is the whole board. If several dies show the same
    counter, the first counts.

    Args:
        root: folder in which ``sys`` is mounted.
        read: returns the text of a file.
        clock: a monotonic clock in nanoseconds.
    """
    folders = [path for path in (root / FOLDER).glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", path.name)]
    try:
        found = [_zone(folder, read) for folder in sorted(folders, key=lambda path: int(path.name.split(":")[1]))]
        zones = _without_mirrors([zone for zone in found if zone is not None], read)
    except SourceError as error:
        return NoSource(str(error))
    if not zones:
        return NoSource(
            f"There is no RAPL package in /{FOLDER}: it needs Linux on an Intel or AMD processor, "
            "and most virtual machines do not have it."
        )
    return RaplSource(zones, read=read, clock=clock)


def _zone(folder: Path, read: Read) -> _Zone | None:
    """Returns the zone of a folder, or None if it is no package."""
    name = _text(folder / "name", read).strip()
    if not _PACKAGE.fullmatch(name):
        return None
    zone = _Zone(name, folder / "energy_uj", _whole(folder / "max_energy_range_uj", read))
    if zone.range_uj < 1:
        raise SourceError(f"The range of RAPL {name} is impossible", expected="a positive number", got=zone.range_uj)
    return zone


def _without_mirrors(zones: list[_Zone], read: Read) -> tuple[_Zone, ...]:
    """Drops dies that show the counter of another die of their package, as AMD processors with several dies do."""
    kept: list[tuple[_Zone, int]] = []
    for zone in zones:
        value = _counter_uj(zone, read)
        same = [
            other
            for other, seen in kept
            if _package(other) == _package(zone) and value > 0 and abs(value - seen) < _SAME_UJ
        ]
        if not same:
            kept.append((zone, value))
    return tuple(zone for zone, _ in kept)


def _package(zone: _Zone) -> str:
    found = _PACKAGE.fullmatch(zone.name)
    return found.group(1) if found else zone.name


def _counter_uj(zone: _Zone, read: Read) -> int:
    value = _whole(zone.counter, read)
    if not 0 <= value <= zone.range_uj:
        raise SourceError(f"RAPL {zone.name} is out of its range", expected=f"0 to {zone.range_uj}", got=value)
    return value


def _whole(file: Path, read: Read) -> int:
    text = _text(file, read).strip()
    if not re.fullmatch(r"-?\d{1,20}", text, re.ASCII):
        raise SourceError(f"RAPL's {file.name} is not a number", got=repr(text[:40]))
    return int(text)


def _text(file: Path, read: Read) -> str:
    try:
        return read(file)
    except PermissionError as error:
        what = "RAPL's counters are readable by root alone, as in Linux since 5.10"
        raise SourceError(what, got=f"no permission for {file}", fix=CURE) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"RAPL's {file.name} cannot be read", got=error) from error


RAPL = EnergyKind("cpu", "measured", lambda own: find_rapl(own.root), lambda own: not own.is_pi)
