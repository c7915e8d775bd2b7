"""The result of a bench: every raw value, what was measured, and on which machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from device_bench.machine.state import MachineState
from runtime import Document, MeasurementError, Precision

from .figures import Accuracy, Arithmetic, Energy, Failure, MemoryUse, Peak, Startup, Throughput, without_zeros
from .instructions import Instructions
from .measurement import Measurement, Sampling


@dataclass(frozen=True)
class FileResult:
    """The measurements of one file.

    Attributes:
        file: name of the file, without a folder.
        sha256: SHA-256 of the file.
        size_bytes: size of the file, bytes.
        precision: precision in the manifest; null without one.
        engine: name of the engine that ran it.
        engine_version: version of the engine.
        threads: threads of the engine.
        batch: images per run.
        measurements: raw values of each metric.
        memory: peak memory of a process that runs the file.
        startup: loading and first inference; null if not measured.
        throughput: images per second, by batch and streams.
        macs: multiply-accumulates of one image, by the plan in the manifest; null without one.
        arithmetic: which of the machine's peaks its matrix products are held against; null where that is not known.
        energy: energy of one image; null if not requested.
        accuracy: accuracy on labelled images on this target; null without images.
        notes: what a reader must know of these figures, such as a drift or two modes in the times.
        instructions: executed for one run; null where the target does not count them.
        metrics: values of further metrics by name, as JSON.

    Raises:
        MeasurementError: a field is impossible.
    """

    file: str
    sha256: str
    size_bytes: int
    precision: Precision | None
    engine: str
    engine_version: str
    threads: int
    batch: int
    measurements: tuple[Measurement, ...]
    memory: MemoryUse
    startup: Startup | None = None
    throughput: tuple[Throughput, ...] = ()
    macs: int | None = None
    arithmetic: Arithmetic | None = None
    energy: Energy | None = None
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()
    instructions: Instructions | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.file or re.search(r"[/\\]", self.file):
            raise MeasurementError("A result names a file without its folder", got=repr(self.file))
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise MeasurementError(f"The sha256 of {self.file} is not one", got=repr(self.sha256))
        if min(self.size_bytes, self.threads, self.batch) < 1:
            raise MeasurementError(
                f"size_bytes, threads and batch of {self.file} must be positive",
                got=f"{self.size_bytes}, {self.threads}, {self.batch}",
            )
        metrics = [measurement.metric for measurement in self.measurements]
        if len(set(metrics)) != len(metrics):
            raise MeasurementError(f"{self.file} has a metric twice", got=", ".join(metrics))

    @property
    def latency(self) -> Measurement | None:
        """The time of one run, s; none when the target has no clock worth reading."""
        return next((measurement for measurement in self.measurements if measurement.metric == "latency"), None)

    @property
    def flops(self) -> int | None:
        """Floating-point operations of one image, or what stands for them in integers: two for each MAC."""
        return None if self.macs is None else 2 * self.macs

    @property
    def gflops_per_s(self) -> float | None:
        """Operations a second at the median latency, 10^9/s; None without MACs or latency."""
        if self.flops is None or self.latency is None:
            return None
        return self.flops * self.batch / median(self.latency.values) * 1e-9

    @property
    def best_throughput(self) -> Throughput | None:
        """The arrangement with the most images a second, or none."""
        return max(self.throughput, key=lambda one: one.median, default=None)


@dataclass(frozen=True)
class BenchResult:
    """One bench of some files, interleaved, on one target.

    Attributes:
        target: name of the target.
        created_utc: time of the bench, ISO 8601 with offset.
        tool_version: version of PocketViT.
        seed: seed of the order and of the inputs.
        sampling: how long each file was measured.
        before: state of the machine just before the first run.
        after: state of the machine just after the last run.
        files: measurements of each file.
        failures: files of which nothing could be measured.
        peaks: peak arithmetic of the machine.
        notes: what a reader must know of all figures, such as a machine that had other work to do.
        emulated: whether the processor is emulated, or the GPU's driver computes on the CPU, so that there are answers
            and counts but no time, memory or energy.

    Raises:
        MeasurementError: the time is not one, there is no file, a file comes twice, or an emulated target has times.
    """

    target: str
    created_utc: str
    tool_version: str
    seed: int
    sampling: Sampling
    before: MachineState
    after: MachineState
    files: tuple[FileResult, ...]
    failures: tuple[Failure, ...] = ()
    peaks: tuple[Peak, ...] = ()
    notes: tuple[str, ...] = ()
    emulated: bool = False

    def __post_init__(self) -> None:
        try:
            aware = datetime.fromisoformat(self.created_utc).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            raise MeasurementError("created_utc is not an ISO 8601 time with offset", got=repr(self.created_utc))
        names = [*(result.file for result in self.files), *(failure.file for failure in self.failures)]
        if not names or len(set(names)) != len(names):
            raise MeasurementError("A bench needs files of different names", got=", ".join(names) or "none")
        timed = [r.file for r in self.files if r.measurements or r.startup or r.throughput or r.energy]
        if self.emulated and (timed or self.peaks):
            raise MeasurementError("An emulated target has no times", got=f"times of {', '.join(timed) or 'its peaks'}")

    def of(self, file: str) -> FileResult | None:
        """Returns the result of the file with that name, or none."""
        return next((result for result in self.files if result.file == file), None)

    def peak_of(self, result: FileResult) -> Peak | None:
        """Returns the peak that ``result`` is held against: of the same arithmetic and threads, by any engine."""
        own = [p for p in self.peaks if (p.arithmetic, p.threads) == (result.arithmetic, result.threads)]
        return max(own, key=lambda peak: peak.best, default=None)


BENCH_DOCUMENT = Document(
    "pocketvit.bench",
    5,
    BenchResult,
    upgrade=without_zeros,
    sealed="Results are never edited by hand: measure again",
)
