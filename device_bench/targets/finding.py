"""One result of a check of a machine or a device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for on a machine or a device.

    Attributes:
        area: the group it belongs to; for a device, the label of the device.
        name: the name of the thing.
        value: the version or state that was found; None if it is missing.
        fix: how to get it if it is missing.
    """

    area: str
    name: str
    value: str | None
    fix: str | None = None
