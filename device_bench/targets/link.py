"""How a program on a device is started from here, whatever carries its input and output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime import PocketVitError

Explain = Callable[[int, str], PocketVitError | None]


def nothing_known(status: int, said: str) -> PocketVitError | None:
    """Explains no ending."""
    return None


@dataclass(frozen=True)
class Link:
    """A way to one device.

    Attributes:
        label: the device's name, for messages.
        argv: the program here that runs a line of POSIX shell there, given as its last argument; it passes standard
            input, output, error and the status on.
        explain: says what an ending of that program means, by its status and what it said, or None if it is none of
            the program's own: what the device's command said is told otherwise.
        emulated: whether no time of the device means anything.
    """

    label: str
    argv: Callable[[str], list[str]]
    explain: Explain = nothing_known
    emulated: bool = False
