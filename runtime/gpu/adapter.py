"""The graphics adapter that LiteRT chose, and the arithmetic it computes with."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from runtime.errors import UnsupportedTargetError

Arithmetic16 = Literal["fp32", "fp16"]
"""``fp32``, or ``fp16`` where an adapter rounds to float16."""

_SELECTED = re.compile(r"Selected adapter: (?P<name>.+?), arch=.*?backend=(?P<backend>\w+), adapterType=(?P<kind>.+)")
_SOFTWARE_LIBRARIES = ("libvk_swiftshader", "libvulkan_lvp")
_EXACT, _HALF = 1e-6, 1e-2


@dataclass(frozen=True)
class Adapter:
    """A graphics adapter.

    Attributes:
        name: as its driver gives it, or the file names of the loaded drivers; None where neither is known.
        backend: the interface it is used through, such as ``Vulkan`` or ``Metal``; None where it is not known.
        software: whether it computes on the CPU; None where it is not known.
        arithmetic: None where it is not known.
    """

    name: str | None = None
    backend: str | None = None
    software: bool | None = None
    arithmetic: Arithmetic16 | None = None

    @property
    def described(self) -> str:
        """The adapter in words, such as ``SwiftShader Device (Subzero), software, Vulkan, fp32``."""
        kind = {True: "software", False: "hardware", None: "not known whether software"}[self.software]
        return ", ".join(filter(None, (self.name or "unnamed", kind, self.backend, self.arithmetic_in_words)))

    @property
    def arithmetic_in_words(self) -> str:
        """The arithmetic, or that it is not known."""
        return self.arithmetic or "arithmetic not known"

    def with_arithmetic(self, answers: npt.NDArray[np.float32]) -> Adapter:
        """Returns the adapter with the arithmetic that its answers to ``PROBE_INPUT`` show.

        Args:
            answers: outputs of the probe, ``(8,)``.
        """
        error = float(np.abs(answers.reshape(-1) - PROBE_INPUT.reshape(-1)).max())
        found: Arithmetic16 | None = "fp32" if error <= _EXACT else "fp16" if error <= _HALF else None
        return replace(self, arithmetic=found)


def selected_adapter(log: str, libraries: tuple[str, ...] = ()) -> Adapter:
    """Returns the adapter that LiteRT's log names, or else what the loaded libraries tell of it.

    Args:
        log: what LiteRT wrote to stderr.
        libraries: file names of the graphics drivers that the process has loaded.

    >>> selected_adapter("Selected adapter: Card 5, arch=a, vendor=v, backend=Metal, adapterType=Integrated GPU")
    Adapter(name='Card 5', backend='Metal', software=False, arithmetic=None)
    """
    found = _SELECTED.search(log)
    if found is None:
        software = True if any(name.startswith(_SOFTWARE_LIBRARIES) for name in libraries) else None
        return Adapter(", ".join(libraries) or None, software=software)
    return Adapter(found["name"], found["backend"], "CPU" in found["kind"])


def check_hardware(adapter: Adapter) -> None:
    """Checks that an adapter is a GPU, since only then its times mean anything.

    Raises:
        UnsupportedTargetError: it computes on the CPU, or that is not known.
    """
    if adapter.software is not False:
        raise UnsupportedTargetError(
            "A file is timed on a GPU only: a driver that computes on the CPU shows answers and no times",
            expected="a graphics adapter that LiteRT calls a GPU",
            got=adapter.described,
            fix="Install the GPU's driver, or compare answers with `pocketvit verify FILE --with gpu`",
        )


PROBE_INPUT: npt.NDArray[np.float32] = (1 + np.arange(1, 17, 2, dtype=np.float64)[None] * 2.0**-13).astype(np.float32)
"""Numbers ``(1, 8)`` that float32 has and float16 rounds."""

PROBE = zlib.decompress(
    base64.b64decode(
        "eNrdUTEOwjAMvNAI0hJVHSrUgaF/gIENJiZGBlYQSAxIIBZg40n8EGzHIYiFnUiuc/bFds8NgOV8MQJKNKhRwcPBEgIhYGKAGdmqA2SE"
        "yaEl7MGnK9wu3SxDw5/7FD/P/3IsrGjRI1u3p/NxsxNZKrBmSV+vsS3Znuyg8tVSp8RA8h593cUwNHDsW7kWVAfSqQg5Y3Q/mU7D+Ekn"
        "xo3GM+051r09iOMQdsqc2wc/xCvJxbkjL/qL8t2b73U2q+8S9/pVO2nD/5re5GHU/AW23xkR"
    )
)
"""A ``.tflite`` file that multiplies 8 numbers by the unit matrix, so that only rounding changes them."""
