"""What was looked for on a machine or a target, whether it was found, and how to get it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: what it belongs to; of a device, its label.
        name: of the thing.
        value: what was found, or None where it is missing.
        fix: what to do when it is missing.
    """

    area: str
    name: str
    value: str | None
    fix: str | None = None
