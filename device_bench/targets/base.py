"""A device to measure on: where it is, and what to use there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime import UnsupportedTargetError
from runtime.processors import PROCESSORS

Backend = Literal["cpu", "gpu", "npu"]
BACKENDS: tuple[Backend, ...] = ("cpu", "gpu", "npu")

# what ssh and adb take for a name of a host, and nothing that a shell or an option parser would take for more
_HOST = re.compile(r"(?!-)[A-Za-z0-9._~+%@:\[\]-]+", re.ASCII)
_NAME = re.compile(r"(?!-)[\w.-]+")


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        address: ``ssh:HOST`` or ``ssh:USER@HOST`` as the user's ssh configuration knows it, ``adb:SERIAL`` or ``adb:``
            for the only one, ``emu:pi4`` or ``emu:pi5``, ``cpu`` or ``cuda``.
        name: what the inventory and the report call it; by default its address.
        threads: of each engine there; by default what the bench asks.
        cpu_family: family of its processor, of ``runtime.processors.PROCESSORS``.
        python: the program that runs Python there.
        ssh_config: file given to ``ssh -F``; by default the user's own.
        benchmark_model: LiteRT's program of that name for the phone, on this machine.
        benchmark_model_sha256: its digest, checked where given.
        backends: of ``benchmark_model``, to be measured one after another.
        notes: for the reader.

    Raises:
        UnsupportedTargetError: the address or another field cannot be what it says it is.
    """

    address: str
    name: str = ""
    threads: int | None = None
    cpu_family: str | None = None
    python: str = "python3"
    ssh_config: Path | None = None
    benchmark_model: Path | None = None
    benchmark_model_sha256: str | None = None
    backends: tuple[Backend, ...] = ("cpu",)
    notes: str = ""

    def __post_init__(self) -> None:
        scheme, colon, rest = self.address.partition(":")
        bare = scheme in ("cpu", "cuda") and not colon
        if not bare and not (scheme in ("ssh", "adb", "emu") and colon and (rest or scheme == "adb")):
            raise UnsupportedTargetError(
                "The address of a device cannot be read",
                expected="cpu, cuda, ssh:HOST, ssh:USER@HOST, adb:, adb:SERIAL, emu:pi4 or emu:pi5",
                got=repr(self.address),
            )
        if rest and not _HOST.fullmatch(rest):
            raise UnsupportedTargetError(
                "The address of a device has characters that no host or serial number has",
                expected="letters, digits and . _ ~ + % @ : [ ] -, and no - in front",
                got=repr(self.address),
            )
        if self.name and not _NAME.fullmatch(self.name):
            raise UnsupportedTargetError(
                "The name of a device goes into file names",
                expected="letters, digits and . _ -, and no - in front",
                got=repr(self.name),
            )
        if self.threads is not None and self.threads < 1:
            raise UnsupportedTargetError(f"threads of {self.label} must be at least 1", got=self.threads)
        if not self.python or any(character in self.python for character in "\0\n\r"):
            raise UnsupportedTargetError(f"python of {self.label} is no program", got=repr(self.python))
        if self.cpu_family is not None and self.cpu_family not in PROCESSORS:
            raise UnsupportedTargetError(
                f"cpu_family of {self.label} is not known", expected=", ".join(PROCESSORS), got=repr(self.cpu_family)
            )
        unknown = [backend for backend in self.backends if backend not in BACKENDS]
        if unknown or not self.backends:
            raise UnsupportedTargetError(
                f"backends of {self.label} are not known",
                expected=", ".join(BACKENDS),
                got=", ".join(unknown) or "none",
            )
        digest = self.benchmark_model_sha256
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise UnsupportedTargetError(f"benchmark_model_sha256 of {self.label} is no sha256", got=repr(digest))

    @property
    def scheme(self) -> str:
        """The kind of target: its address up to the colon, if it has one."""
        kind, colon, _ = self.address.partition(":")
        return kind + colon

    @property
    def place(self) -> str:
        """What comes after the scheme: host, serial number or core; empty for this machine and for the only phone."""
        return self.address.partition(":")[2]

    @property
    def label(self) -> str:
        """What to call it: its name, or its address."""
        return self.name or self.address
