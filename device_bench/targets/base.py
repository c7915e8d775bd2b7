"""A kind of target, and one device of it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult
from device_bench.targets import TARGETS
from device_bench.timing.isolated import Samples
from runtime import Progress, UnsupportedTargetError
from runtime.processors import cpu_families

from .finding import Finding

Backend = Literal["cpu", "gpu", "npu"]
"""What LiteRT's ``benchmark_model`` runs a file on; ``npu`` is Android's NNAPI, and no vendor's own compiler."""

BACKENDS: tuple[Backend, ...] = ("cpu", "gpu", "npu")

# what ssh and adb take for a name of a host, and nothing that a shell or an option parser would take for more
_HOST = re.compile(r"(?!-)[A-Za-z0-9._~+%@:\[\]-]+", re.ASCII)
_NAME = re.compile(r"(?!-)[\w.-]+")


class BenchDevice(Protocol):
    """Measures files on a device."""

    def __call__(
        self, device: Device, request: BenchRequest, progress: Progress, *, stop: threading.Event
    ) -> BenchResult | tuple[BenchResult, ...]:
        """Returns the result, or several where a device has several backends, or where several devices came.

        Args:
            device: where to measure.
            request: what to measure; its ``target`` is the device's address.
            progress: reports the files and rounds that are done.
            stop: once it is set, the bench ends as soon as possible.

        Raises:
            PocketVitError: nothing can be measured there.
        """


class TimeTogether(Protocol):
    """Times many small files in turns, for a latency table."""

    def __call__(self, files: Sequence[Path], *, threads: int, rounds: int) -> Samples:
        """Returns the times of each file.

        Raises:
            PocketVitError: they cannot be timed.
        """


@dataclass(frozen=True)
class Target:
    """One kind of target.

    Attributes:
        bench: measures files on a device.
        check: looks at a device: what can be reached, what is there and what is missing.
        title: plural noun phrase for its devices, such as ``Linux boards``.
        programs: programs that this machine needs for it, each with the command that installs it.
        local: the device is this machine, so nothing else may run at the same time.
        separate: devices of one address are independent, and are measured at the same time.
        time_together: times files for a latency table; without it no table can be measured there.
        gathers: devices come to the bench by themselves, so it has any number of results; when it is stopped it returns
            those that came.
    """

    bench: BenchDevice
    check: Callable[[Device], tuple[Finding, ...]]
    title: str
    programs: Mapping[str, str] = field(default_factory=dict)
    local: bool = False
    separate: bool = False
    time_together: TimeTogether | None = None
    gathers: bool = False


def form_of(address: str) -> str:
    """Returns the form in ``TARGETS`` that an address has.

    >>> form_of("adb:")
    'adb:[SERIAL]'

    Raises:
        UnsupportedTargetError: it has none of these forms.
    """
    scheme, colon, place = address.partition(":")
    for form in TARGETS:
        kind, separator, wanted = form.partition(":")
        optional = re.fullmatch(r"\[[^][]*\]", wanted)
        if (kind, separator) == (scheme, colon) and bool(wanted and (place or optional)) == bool(colon):
            return form
    raise UnsupportedTargetError(
        "The address of a device cannot be read", expected=f"one of {', '.join(TARGETS)}", got=repr(address)
    )


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        address: of one of the forms in ``TARGETS``, such as ``cpu``, ``ssh:HOST`` with a host of the user's ssh
            configuration, or ``adb:`` for the only phone.
        name: name in the inventory and in the report; by default the address.
        threads: threads of each engine; by default those of the bench.
        cpu_family: family of its processor, of ``runtime.processors.cpu_families()``.
        python: program that runs Python on the device.
        ssh_config: file for ``ssh -F``; by default that of the user.
        benchmark_model: path on this machine of LiteRT's program ``benchmark_model`` for the phone.
        benchmark_model_sha256: SHA-256 of that program; it is checked if given.
        backends: backends of ``benchmark_model``, measured one after another; ``npu`` is Android's NNAPI.
        notes: notes for the reader.

    Raises:
        UnsupportedTargetError: the address or another field is impossible.
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
        form_of(self.address)
        rest = self.place
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
        if self.cpu_family is not None and self.cpu_family not in cpu_families():
            raise UnsupportedTargetError(
                f"cpu_family of {self.label} is not known",
                expected=", ".join(cpu_families()),
                got=repr(self.cpu_family),
            )
        unknown = [backend for backend in self.backends if backend not in BACKENDS]
        if unknown or not self.backends:
            raise UnsupportedTargetError(
                f"backends of {self.label} are not known",
                expected=f"{', '.join(BACKENDS)}, of which npu is Android's NNAPI",
                got=", ".join(unknown) or "none",
            )
        digest = self.benchmark_model_sha256
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise UnsupportedTargetError(f"benchmark_model_sha256 of {self.label} is no sha256", got=repr(digest))

    @property
    def scheme(self) -> str:
        """The kind of target: its address up to the colon."""
        return self.address.partition(":")[0]

    @property
    def target(self) -> Target:
        """The kind of target, with what measures and looks there."""
        return TARGETS[form_of(self.address)]

    @property
    def place(self) -> str:
        """The part of the address after the colon: host, serial number or core; empty without one."""
        return self.address.partition(":")[2]

    @property
    def label(self) -> str:
        """The name, or else the address."""
        return self.name or self.address
