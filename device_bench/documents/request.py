"""What a bench measures, on any target."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtime import ArtifactError, MeasurementError, UnsupportedTargetError, check_fields
from runtime.formats import format_of
from runtime.worker.parent import SILENCE_S

from .measurement import Sampling


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
