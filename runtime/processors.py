"""What files are made for, by name: families of processors, and the compilers of NPUs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import DataError
from .registry import Registry


@dataclass(frozen=True)
class Processor:
    """A family of processors.

    Attributes:
        name: the value of ``--for``, and of ``cpu_family`` of a device.
        title: of the family in texts.
        machines: values of ``platform.machine()`` on such processors, in lower case.
        counts: name of the emulated core whose instruction counts order the recipes; empty where none was counted.
        costs: instructions of one run of an ``int8`` file over those of the float32 file, by name of recipe; these
            go before those of ``counts``.
        recipes: names of the recipes to try; all that suit the kind of file where it is empty.
        kinds: names of the kinds of file that take the place of the usual ones where none is asked for. It is set for
            what is no processor that runs ``int8`` files; ``cpu_family`` of a device takes no such name.
    """

    name: str
    title: str
    machines: tuple[str, ...] = ()
    counts: str = ""
    costs: Mapping[str, float] = field(default_factory=dict)
    recipes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


X86 = Processor("x86", "desktop and server processors", machines=("x86_64", "amd64"))
PI4 = Processor("pi4", "Raspberry Pi 4 (Cortex-A72)", counts="pi4")
PI5 = Processor("pi5", "Raspberry Pi 5 (Cortex-A76)", counts="pi5")
# the cores of a phone have dot products of 8-bit integers, as those of a Pi 5
ANDROID = Processor("android", "Android phones", counts="pi5")
STATIC_INT8 = Processor("static-int8", "the NPU compilers of chip vendors", kinds=("static-int8",))

PROCESSORS: Registry[Processor] = Registry(
    "family of processors",
    {
        name: f"runtime.processors:{name.upper().replace('-', '_')}"
        for name in ("x86", "pi4", "pi5", "android", "static-int8")
    },
    error=DataError,
)
"""Values of ``--for`` by name."""


def cpu_families() -> tuple[str, ...]:
    """Returns the names of the families of processors that run ``int8`` files."""
    return tuple(name for name, one in PROCESSORS.items() if not one.kinds)


def host_processor() -> str:
    """Returns the name of the family that this machine's processor belongs to, or an empty text."""
    machine = platform.machine().lower()
    return next((name for name, one in PROCESSORS.items() if machine in one.machines), "")
