"""Checks whether files can be measured on devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from runtime import PocketVitError

from .base import Device
from .finding import Finding

TargetCheck = Callable[[Device], tuple[Finding, ...]]


def check_devices(devices: Sequence[Device], check: TargetCheck | None = None) -> tuple[Finding, ...]:
    """Checks all devices at the same time: what can be reached, what is there and what is missing.

    Args:
        devices: the devices to check.
        check: checks one device; by default the check of its target.

    Returns:
        The findings in the order of ``devices``. A device that cannot be checked has one finding with the reason.
    """

    def look(device: Device) -> tuple[Finding, ...]:
        try:
            return (check or device.target.check)(device)
        except PocketVitError as error:
            return (Finding(device.label, "answers", None, str(error)),)

    if not devices:
        return ()
    with ThreadPoolExecutor(len(devices)) as pool:
        return tuple(finding for found in pool.map(look, devices) for finding in found)
