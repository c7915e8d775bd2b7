"""What a bench measures, on any target."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from runtime import ArtifactError, MeasurementError, UnsupportedTargetError, check_fields
from runtime.formats import format_of
from runtime.worker.parent import SILENCE_S

from .measurement import Sampling


@dataclass(frozen=True)
class WebOptions:
    """How a bench in browsers is served.

    Attributes:
        devices: number of devices to wait for, at least 1.
        https: serve over https, with a self-signed certificate.
        host: name or address of this machine for others; empty to find it.
        port: port to listen on; 0 for any free one.

    Raises:
        MeasurementError: a value is out of range.
        PlanError: a value is of another type.
    """

    devices: int = 1
    https: bool = False
    host: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.devices <= 64:
            raise MeasurementError("The number of devices is out of range", expected="1 to 64", got=self.devices)
        if not 0 <= self.port <= 65535:
            raise MeasurementError("The port is out of range", expected="0 to 65535", got=self.port)
        if not re.fullmatch(r"[A-Za-z0-9.-]*", self.host):
            raise MeasurementError("The host is no name or address of IPv4", got=repr(self.host))


@dataclass(frozen=True)
class BenchRequest:
    """What to measure of which files.

    Attributes:
        files: ``.onnx``, ``.tflite`` and ``.pt2`` files, all of different names.
        target: address of the device, such as ``cpu`` or ``ssh:HOST``.
        threads: threads of each engine, at least 1.
        sampling: how long to measure latency.
        seed: seed of the inputs and of the order.
        startup: measure loading and first inference in three fresh processes; otherwise in one.
        throughput_s: seconds to spend on each file's throughput; 0 does not measure it.
        peaks: measure the machine's peak arithmetic too, if the MACs of a file are known.
        energy: measure the energy of an inference too.
        country: country of the electricity grid, for CO2, ISO 3166 alpha-3; null leaves it to the energy source.
        images: file of labelled images that each file answers, written by ``write_test_images``.
        timeout_s: longest silence of a measuring process before the file counts as hung, s.
        bootstrap: install missing packages on the device, in a separate folder.
        web: how a bench in browsers is served.

    Raises:
        MeasurementError: no file, two of the same name, or a time below 0.
        UnsupportedTargetError: ``threads`` is below 1.
        PlanError: a value is of another type.
    """

    files: tuple[Path, ...]
    target: str = "cpu"
    threads: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    startup: bool = True
    throughput_s: float = 0.0
    peaks: bool = True
    energy: bool = False
    country: str | None = None
    images: Path | None = None
    timeout_s: float = SILENCE_S
    bootstrap: bool = False
    web: WebOptions = field(default_factory=WebOptions)

    def __post_init__(self) -> None:
        check_fields(self)
        names = [file.name for file in self.files]
        if not names or len(set(names)) != len(names):
            raise MeasurementError("A bench needs files of different names", got=", ".join(names) or "none")
        if self.threads < 1:
            raise UnsupportedTargetError("threads must be at least 1", got=self.threads)
        if not (0 <= self.throughput_s < float("inf") and 0 < self.timeout_s < float("inf")):
            raise MeasurementError(
                "A time is out of range",
                expected="throughput_s of 0 or more and timeout_s above 0",
                got=f"{self.throughput_s} and {self.timeout_s}",
            )

    @property
    def scheme(self) -> str:
        """The kind of target: its name up to the colon, if it has one."""
        kind, colon, _ = self.target.partition(":")
        return kind + colon


def check_files(request: BenchRequest) -> None:
    """Checks that the files are there, and of a kind that can be run.

    Raises:
        ArtifactError: a file does not exist, or is no model file by its name.
    """
    for file in request.files:
        format_of(file)
        if not file.is_file():
            raise ArtifactError(f"The model file {file} does not exist")
    if request.images is not None and not request.images.is_file():
        raise ArtifactError(f"The file of labelled images {request.images} does not exist")
