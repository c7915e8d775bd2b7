"""Several devices measured side by side; one that fails costs its own entry alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult
from runtime import MeasurementError, PocketVitError, Progress, silent, tool_version

from .base import BenchDevice, Device
from .bench import bench_device

_LOOK_S = 0.2
_GRACE_S = 20.0
"""So long may workers take to clean up their devices after Ctrl-C."""


@dataclass(frozen=True)
class DeviceFailure:
    """A device on which nothing could be measured.

    Attributes:
        target: what the device is called.
        what: went wrong.
        created_utc: when, ISO 8601 with offset.
        tool_version: of PocketViT.
    """

    target: str
    what: str
    created_utc: str
    tool_version: str


@dataclass(frozen=True)
class Fleet:
    """What became of each device.

    Attributes:
        results: of the devices that were measured, in the order asked.
        failures: of the others, in the order asked.
    """

    results: tuple[BenchResult, ...]
    failures: tuple[DeviceFailure, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every file was measured on every device."""
        return not self.failures and not any(result.failures for result in self.results)

    @property
    def empty(self) -> bool:
        """Whether nothing at all was measured."""
        return not any(result.files for result in self.results)


def bench_fleet(
    devices: Sequence[Device],
    request: BenchRequest,
    progress: Progress = silent,
    *,
    bench_one: BenchDevice | None = None,
) -> Fleet:
    """Measures the files of ``request`` on each device, one worker a device, all side by side.

    This machine's own targets, cpu and cuda, run first, one after another and with nothing beside them, for other work
    would be in their times. Targets at one address run one after another too, but for emulated boards.

    Args:
        devices: all with different labels.
        request: what to measure; what target it names is not looked at.
        progress: told by one worker at a time; where there are several devices, a stage begins with the device's label.
        bench_one: measures on one device; by default ``targets.bench_device``.

    Returns:
        A fleet whose results are called as the devices are.

    Raises:
        KeyboardInterrupt: the user stopped it; every worker was told and has cleaned up, or had 20 s for it.
    """
    bench_one = bench_one or bench_device
    stop, speaking = threading.Event(), threading.Lock()
    outcomes: dict[str, tuple[BenchResult, ...] | DeviceFailure] = {
        device.label: _failure(device, "Its worker ended without an answer.") for device in devices
    }

    def work(queue: Sequence[Device]) -> None:
        for device in queue:
            told = _labelled(progress, device.label, speaking) if len(devices) > 1 else progress
            outcomes[device.label] = own = _outcome(bench_one, device, request, told, stop)
            if len(devices) > 1:
                told(*(("failed", 1, 1, own.what) if isinstance(own, DeviceFailure) else ("done", 1, 1)))

    work([device for device in devices if device.target.local])
    _side_by_side(work, [device for device in devices if not device.target.local], stop)
    ordered = [outcomes[device.label] for device in devices]
    return Fleet(
        tuple(result for own in ordered if isinstance(own, tuple) for result in own),
        tuple(own for own in ordered if isinstance(own, DeviceFailure)),
    )


def _side_by_side(work: Callable[[Sequence[Device]], None], devices: Sequence[Device], stop: threading.Event) -> None:
    """Has the devices of each address done by a worker; Ctrl-C tells the workers, and then waits for them."""
    queues: dict[str, list[Device]] = {}
    for device in devices:
        queues.setdefault(device.label if device.target.separate else device.address, []).append(device)
    begun: list[threading.Event] = []
    try:
        for queue in queues.values():
            begun.append(_begin(work, queue))
        for ended in begun:
            while not ended.wait(_LOOK_S):
                pass
    except KeyboardInterrupt:
        stop.set()
        until = time.monotonic() + _GRACE_S
        for ended in begun:
            ended.wait(max(0.0, until - time.monotonic()))
        raise


def _begin(work: Callable[[Sequence[Device]], None], queue: Sequence[Device]) -> threading.Event:
    """Starts a worker and returns what is set when it ends; a join that Ctrl-C interrupts would take it for ended."""
    ended = threading.Event()

    def run() -> None:
        try:
            work(queue)
        finally:
            ended.set()

    # a daemon, so that a worker that takes no notice cannot keep the program from ending
    threading.Thread(target=run, daemon=True).start()
    return ended


def _outcome(
    bench_one: BenchDevice, device: Device, request: BenchRequest, progress: Progress, stop: threading.Event
) -> tuple[BenchResult, ...] | DeviceFailure:
    if stop.is_set():
        return _failure(device, "It was not begun before the bench was stopped.")
    try:
        found = bench_one(device, request, progress, stop=stop)
    except PocketVitError as error:
        return _failure(device, str(error))
    except (Exception, SystemExit) as error:  # whatever it is, the other devices go on
        got = f"{type(error).__name__}: {error}"
        return _failure(device, str(MeasurementError(f"The bench of {device.label} ended in an error", got=got)))
    results = found if isinstance(found, tuple) else (found,)
    return tuple(replace(r, target=device.label) if r.target == device.address else r for r in results)


def _failure(device: Device, what: str) -> DeviceFailure:
    return DeviceFailure(device.label, what, datetime.now(UTC).isoformat(timespec="seconds"), tool_version())


def _labelled(progress: Progress, label: str, speaking: threading.Lock) -> Progress:
    """Returns a progress whose stages bear ``label``, and that waits until no other worker speaks."""

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        with speaking:
            progress(f"{label}: {stage}", done, total, note)

    return report
