"""A connection to a device, over which commands are started there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime import PocketVitError

Explain = Callable[[int, str], PocketVitError | None]


def nothing_known(status: int, output: str) -> PocketVitError | None:
    """Explains nothing."""
    return None


@dataclass(frozen=True)
class Link:
    """A connection to one device.

    Attributes:
        label: name of the device in messages.
        argv: returns the local command that runs a line of POSIX shell on the device; it passes on standard input,
            output, error and exit status.
        explain: returns the error that the exit status and stderr of the local command mean; None if the failure is
            that of the command on the device.
        emulated: whether the device is emulated, so that its times mean nothing.
    """

    label: str
    argv: Callable[[str], list[str]]
    explain: Explain = nothing_known
    emulated: bool = False
