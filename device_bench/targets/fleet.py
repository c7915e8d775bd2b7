"""Measures on several devices at the same time; one that fails does not affect the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult
from runtime import MeasurementError, PocketVitError, Progress, silent, tool_version

from .base import BenchDevice, Device
from .bench import bench_device

_LOOK_S = 0.2
_GRACE_S = 20.0
"""Time that threads have to clean up their devices after Ctrl-C, s."""


@dataclass(frozen=True)
class DeviceFailure:
    """A device on which nothing could be measured.

    Attributes:
        target: name of the device.
        what: error text.
        created_utc: time of the failure, ISO 8601 with offset.
        tool_version: version of PocketViT.
    """

    target: str
    what: str
    created_utc: str
    tool_version: str


@dataclass(frozen=True)
class Fleet:
    """The results and failures of several devices.

    Attributes:
        results: results of the devices that were measured, in the order asked.
        failures: failures of the other devices, in the order asked.
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
    """Measures files on each device, all at the same time, with one thread for each device.

    Local targets run first and one after another, since other work would disturb their times. Devices with the same
    address also run one after another, unless their target is ``separate``.

    Args:
        devices: devices with different labels.
        request: what to measure; its target is ignored.
        progress: called by one thread at a time; with several devices, the stage begins with the device's label.
        bench_one: measures on one device; by default ``targets.bench_device``.

    Returns:
        A fleet whose results bear the labels of the devices.

    Raises:
        KeyboardInterrupt: the user stopped it, and no target ``gathers``; every thread has cleaned up, or had 20 s for
            it. With such a target, what came until then is returned.
    """
    bench_one = bench_one or bench_device
    stop, speaking = threading.Event(), threading.Lock()
    outcomes: dict[str, tuple[BenchResult, ...] | DeviceFailure] = {
        device.label: _failure(device, "Its thread ended without a result.") for device in devices
    }

    def work(queue: Sequence[Device]) -> None:
        for device in queue:
            report = _labelled(progress, device.label, speaking) if len(devices) > 1 else progress
            outcomes[device.label] = own = _outcome(bench_one, device, request, report, stop)
            if len(devices) > 1:
                report(*(("failed", 1, 1, own.what) if isinstance(own, DeviceFailure) else ("done", 1, 1)))

    try:
        work([device for device in devices if device.target.local])
        _side_by_side(work, [device for device in devices if not device.target.local], stop)
    except KeyboardInterrupt:
        if not any(device.target.gathers for device in devices):
            raise
    ordered = [outcomes[device.label] for device in devices]
    return Fleet(
        tuple(result for own in ordered if isinstance(own, tuple) for result in own),
        tuple(own for own in ordered if isinstance(own, DeviceFailure)),
    )


def _side_by_side(work: Callable[[Sequence[Device]], None], devices: Sequence[Device], stop: threading.Event) -> None:
    """Measures on the devices of each address in a thread; Ctrl-C stops the threads and waits for them."""
    queues: dict[str, list[Device]] = {}
    for device in devices:
        queues.setdefault(device.label if device.target.separate else device.address, []).append(device)
    threads: list[_Thread] = []
    try:
        for queue in queues.values():
            threads.append(_Thread())  # before it starts: Ctrl-C may come as it does
            _start(threads[-1], work, queue)
        for thread in threads:
            while not thread.ended.wait(_LOOK_S):
                pass
    except KeyboardInterrupt:
        stop.set()
        until = time.monotonic() + _GRACE_S
        for thread in threads:
            if thread.begun.wait(_LOOK_S):
                thread.ended.wait(max(0.0, until - time.monotonic()))
        raise


@dataclass(frozen=True)
class _Thread:
    """Events that a thread sets as it begins and as it ends; an interrupted join would not show that."""

    begun: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


def _start(thread: _Thread, work: Callable[[Sequence[Device]], None], queue: Sequence[Device]) -> None:
    def run() -> None:
        thread.begun.set()
        try:
            work(queue)
        finally:
            thread.ended.set()

    # a daemon, so that a thread that does not stop cannot keep the program from ending
    threading.Thread(target=run, daemon=True).start()


def _outcome(
    bench_one: BenchDevice, device: Device, request: BenchRequest, progress: Progress, stop: threading.Event
) -> tuple[BenchResult, ...] | DeviceFailure:
    if stop.is_set():
        return _failure(device, "It was not begun before the bench was stopped.")
    try:
        found = bench_one(device, request, progress, stop=stop)
    except PocketVitError as error:
        return _failure(device, str(error))
    except (Exception, SystemExit) as error:  # whatever the error is, the other devices go on
        got = f"{type(error).__name__}: {error}"
        return _failure(device, str(MeasurementError(f"The bench of {device.label} ended in an error", got=got)))
    results = found if isinstance(found, tuple) else (found,)
    return tuple(replace(r, target=device.label) if r.target == device.address else r for r in results)


def _failure(device: Device, what: str) -> DeviceFailure:
    return DeviceFailure(device.label, what, datetime.now(UTC).isoformat(timespec="seconds"), tool_version())


def _labelled(progress: Progress, label: str, speaking: threading.Lock) -> Progress:
    """Returns a progress that puts ``label`` before the stage and is called by one thread at a time."""

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        with speaking:
            progress(f"{label}: {stage}", done, total, note)

    return report
