"""What was looked for on a machine or a device, whether it was found, and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from runtime import PocketVitError

from .base import Device
from .finding import Finding

Check = Callable[[Device], tuple[Finding, ...]]


def check_devices(devices: Sequence[Device], check: Check | None = None) -> tuple[Finding, ...]:
    """Looks at each device: what is reachable, found and missing there; all at once, for a silent one takes its time.

    Args:
        devices: to look at.
        check: looks at one device; by default what its target has for that.

    Returns:
        The findings in the order of ``devices``; one that cannot be looked at has a finding that says why.
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
