"""The memory of a microcontroller that a file must fit."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import DataError


@dataclass(frozen=True)
class MicroLimits:
    """Memory of a microcontroller.

    Attributes:
        flash_bytes: for the file; the program that runs it comes on top.
        ram_bytes: for the arena, in which the interpreter keeps activations and its own records.

    Raises:
        DataError: a limit is not positive.
    """

    flash_bytes: int = 2 * 2**20
    ram_bytes: int = 512 * 2**10

    def __post_init__(self) -> None:
        for name in ("flash_bytes", "ram_bytes"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be positive", got=getattr(self, name))


DEFAULT_LIMITS = MicroLimits()
"""2 MiB of flash and 512 KiB of RAM, as on the larger boards since 2020."""
