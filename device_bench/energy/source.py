"""The protocol of energy sources, and two general ones: a counter, and polled power."""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from device_bench.clock import Clock
from device_bench.documents.figures import EnergyTier
from device_bench.machine.state import machine_state
from runtime import MeasurementError

Importer = Callable[[str], Any]
Command = Callable[[Sequence[str]], str]
Watch = Callable[[Callable[[], None], float], Callable[[], None]]
_COMMAND_TIMEOUT_S = 5.0


class SourceError(MeasurementError):
    """An energy source that does not answer, or gives an impossible value."""


@dataclass(frozen=True)
class NoSource:
    """No source of energy was found.

    Attributes:
        reason: the reason, and the cure.
    """

    reason: str


class EnergySource(Protocol):
    """A source of the energy drawn since its start.

    Attributes:
        name: name for the reader, with the assumptions of an estimate.
        tier: how the energy is known.
        resolution_s: interval at which the energy changes, s.
        remark: note for the reader, such as why there is no better source.
    """

    name: str
    tier: EnergyTier
    resolution_s: float
    remark: str | None

    def start(self) -> None:
        """Starts at 0 J; a source can be started again after ``stop``."""

    def read_j(self) -> float:
        """Returns the energy drawn since the start, J; it never decreases.

        Raises:
            SourceError: the source no longer answers, or gives an impossible value.
        """

    def stop(self) -> None:
        """Ends the background work of the source."""


def run_command(command: Sequence[str]) -> str:
    """Runs a local program and returns its output.

    Raises:
        SourceError: there is no such program, it fails, or it takes longer than 5 s.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"{command[0]} did not answer within {_COMMAND_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise SourceError(f"{command[0]} cannot be run", got=error.strerror) from error
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip()).partition("\n")[0]
        raise SourceError(f"{command[0]} failed with code {done.returncode}", got=message or None)
    return done.stdout


@dataclass(frozen=True)
class Surroundings:
    """The machine in which an energy source is looked for.

    Attributes:
        root: folder in which ``proc`` and ``sys`` are mounted.
        importer: imports ``pynvml`` and codecarbon's modules.
        command: runs a program of this machine and returns its output.
        environment: environment variables, with CUDA's own.
        gpu: number of the GPU, as CUDA counts.
        remark: why no better source was found.
    """

    root: Path = Path("/")
    importer: Importer = import_module
    command: Command = run_command
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    gpu: int = 0
    remark: str | None = None

    @property
    def is_pi(self) -> bool:
        """Whether the machine is a Raspberry Pi."""
        return (machine_state(self.root).board or "").startswith("Raspberry Pi")


@dataclass(frozen=True)
class EnergyKind:
    """One kind of energy source.

    Attributes:
        target: processor whose energy it knows: ``cpu`` or ``cuda``.
        tier: how the energy is known.
        find: returns the source, or the reason why this machine has none.
        suits: whether such a source can be expected on a machine at all.
    """

    target: Literal["cpu", "cuda"]
    tier: Literal["measured", "estimated"]
    find: Callable[[Surroundings], EnergySource | NoSource]
    suits: Callable[[Surroundings], bool] = lambda surroundings: True


class CounterSource:
    """Energy from a counter outside this program.

    Args:
        name: name for the reader.
        total_j: returns the total, J, from any starting point.
        tier: how the energy is known.
        resolution_s: interval at which the total changes, s.
        remark: note for the reader.
    """

    def __init__(
        self,
        name: str,
        total_j: Callable[[], float],
        *,
        tier: EnergyTier,
        resolution_s: float,
        remark: str | None = None,
    ) -> None:
        self.name, self.tier, self.resolution_s, self.remark = name, tier, resolution_s, remark
        self._total_j = total_j
        self._first = self._last = 0.0

    def start(self) -> None:
        """Starts at 0 J."""
        self._first = self._last = self._total_j()

    def read_j(self) -> float:
        """Returns the energy counted since the start, J.

        Raises:
            SourceError: the counter fell, or cannot be read.
        """
        total = self._total_j()
        if not self._last <= total < math.inf:
            raise SourceError("The energy counter fell", expected=f"{self._last:g} J or more", got=f"{total:g} J")
        self._last = total
        return total - self._first

    def stop(self) -> None:
        """Does nothing."""


class PolledPower:
    """Energy as the sum of power read at intervals; each interval counts with the mean of its ends.

    Args:
        name: name for the reader.
        read_w: returns the power now, W; raises ``SourceError`` when it cannot.
        interval_s: time between two readings, s.
        clock: a monotonic clock in nanoseconds.
        watch: calls a function at intervals and returns a function that ends this; by default in a thread.
    """

    def __init__(
        self,
        name: str,
        read_w: Callable[[], float],
        *,
        interval_s: float = 0.1,
        clock: Clock = time.perf_counter_ns,
        watch: Watch | None = None,
    ) -> None:
        self.name, self.resolution_s = name, interval_s
        self.tier: EnergyTier = "measured"
        self.remark: str | None = None
        self._read_w, self._clock, self._watch = read_w, clock, watch or every
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last: tuple[int, float] | None = None
        self._failure: SourceError | None = None
        self._end: Callable[[], None] | None = None

    def start(self) -> None:
        """Starts at 0 J and begins to read.

        Raises:
            SourceError: the power cannot be read.
        """
        self._joules, self._last, self._failure = 0.0, None, None
        self.read_j()
        self._end = self._watch(self._sample, self.resolution_s)

    def read_j(self) -> float:
        """Reads the power once more and returns the energy since the start, J.

        Raises:
            SourceError: the power could not be read, now or at some time since the start, or is negative.
        """
        self._sample()
        if self._failure is not None:
            raise self._failure
        return self._joules

    def stop(self) -> None:
        """Ends the readings."""
        if self._end is not None:
            self._end()
            self._end = None

    def _sample(self) -> None:
        with self._lock:
            try:
                watts = self._read_w()
                if not 0 <= watts < math.inf:
                    raise SourceError("The power is impossible", expected="0 W or more", got=f"{watts:g} W")
            except SourceError as error:  # raised in a thread, so it is kept for the next read
                self._failure = error
                return
            now = self._clock()
            if self._last is not None:
                before, watts_before = self._last
                self._joules += (now - before) * 1e-9 * (watts + watts_before) / 2
            self._last = (now, watts)


def every(do: Callable[[], None], seconds: float) -> Callable[[], None]:
    """Calls ``do`` every ``seconds`` in a thread, until the function that is returned is called."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=loop, name="energy", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    return stop
