"""What was looked for on a machine or a device, whether it was found, and how to get it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from runtime import PocketVitError
from runtime.engines import ENGINES

from .base import Device
from .finding import Finding

Checker = Callable[[Device], tuple[Finding, ...]]


def check_devices(devices: Sequence[Device], checkers: Mapping[str, Checker] | None = None) -> tuple[Finding, ...]:
    """Looks at each device: what is reachable, found and missing there; all at once, for a silent one takes its time.

    Args:
        devices: to look at.
        checkers: by scheme; by default ``CHECKERS``.

    Returns:
        The findings in the order of ``devices``; one that cannot be looked at has a finding that says why.
    """
    known = CHECKERS if checkers is None else checkers

    def look(device: Device) -> tuple[Finding, ...]:
        try:
            return known[device.scheme](device)
        except PocketVitError as error:
            return (Finding(device.label, "answers", None, str(error)),)

    if not devices:
        return ()
    with ThreadPoolExecutor(len(devices)) as pool:
        return tuple(finding for found in pool.map(look, devices) for finding in found)


def _ssh(device: Device) -> tuple[Finding, ...]:
    from .ssh import check_ssh

    return check_ssh(device)


def _adb(device: Device) -> tuple[Finding, ...]:
    from device_bench.targets.android.adb import check_adb

    return check_adb(device)


def _emulated(device: Device) -> tuple[Finding, ...]:
    from .emulated import check_emulated

    return check_emulated(device)


def _cpu(device: Device) -> tuple[Finding, ...]:
    return tuple(
        Finding(device.label, kind.title, _version((kind.package, *kind.same)), kind.fix)
        for kind in ENGINES.values()
        if kind.package
    )


def _version(packages: Sequence[str]) -> str | None:
    """Returns the version of the first of ``packages`` that is installed."""
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def _cuda(device: Device) -> tuple[Finding, ...]:
    from .cuda import ask_driver

    return (Finding(device.label, "GPU", ask_driver()),)


CHECKERS: Mapping[str, Checker] = {"cpu": _cpu, "cuda": _cuda, "ssh:": _ssh, "adb:": _adb, "emu:": _emulated}
"""Who looks at a device, by its scheme."""
