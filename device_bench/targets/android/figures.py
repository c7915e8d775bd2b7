"""Measures files on a phone: times in turns, then memory and energy in separate processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from device_bench.documents.figures import ARITHMETIC, Energy, Failure, MemoryUse, Startup
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import FileResult
from device_bench.energy.measure import UPDATES, WINDOW_S, measure_energy
from device_bench.energy.source import NoSource, PolledPower, SourceError
from device_bench.metrics.answers import UNCHECKED
from device_bench.timing.steadiness import series_notes
from runtime import Artifact, ArtifactError, PocketVitError, manifest_path, read_artifact, sha256_of
from runtime.formats import TFLITE

from .benchmark_model import DELEGATES, BenchmarkOptions, shortfalls
from .fuel_gauge import find_gauge
from .rounds import PROGRAM, Bench, PhoneJob, RunError, Series, memory_of, phone_latency, run_once, time_jobs
from .state import AndroidState

_LONGEST = 10  # longest time of an energy process, in windows


@dataclass(frozen=True)
class Known:
    """A file that is going to be sent.

    Attributes:
        file: path on this machine.
        manifest: manifest of the file; None without one.
        sha256: SHA-256 of the file.
        remote: name on the phone, which is never that of the file.
    """

    file: Path
    manifest: Artifact | None
    sha256: str
    remote: str

    @property
    def batch(self) -> int:
        """Images of each run; the program uses 1 for a free batch dimension."""
        return max(1, self.manifest.input.shape[0]) if self.manifest else 1


@dataclass(frozen=True)
class Figures:
    """The measurements of one job.

    Attributes:
        series: timed processes.
        memory: memory of a separate process.
        energy: energy of further processes; None if not requested.
    """

    series: Series
    memory: MemoryUse
    energy: Energy | None = None


def look_at(request: BenchRequest) -> tuple[list[Known], list[Failure]]:
    """Returns the files that can be sent, and a failure for each other file."""
    known, failures = [], []
    for number, file in enumerate(request.files):
        if file.suffix != TFLITE.suffix:
            what = f"{PROGRAM} runs {TFLITE.suffix} files alone; a {file.suffix} file needs a Python on the phone."
            failures.append(Failure(file.name, what))
            continue
        if "\\" in file.name:
            failures.append(
                Failure(file.name, "Its name has a backslash, which some systems take for a folder: rename it.")
            )
            continue
        try:
            manifest = read_artifact(file) if manifest_path(file).is_file() else None
        except ArtifactError as error:
            failures.append(Failure(file.name, str(error).replace(str(file), file.name)))
            continue
        known.append(
            Known(file, manifest, manifest.sha256 if manifest else sha256_of(file), f"model-{number}{TFLITE.suffix}")
        )
    return known, failures


def measure_jobs(
    bench: Bench, jobs: Sequence[PhoneJob], request: BenchRequest, state: AndroidState
) -> Mapping[PhoneJob, Figures]:
    """Measures the times of all jobs in turns, then the memory and energy of one job after another.

    Args:
        bench: the program and its files on the phone.
        jobs: files on backends.
        request: what to measure.
        state: state of the phone.

    Raises:
        UnsupportedTargetError: the phone cannot run the program at all.
        MeasurementError: the phone is disconnected.
    """
    if state.emulated:  # an emulated phone shows only that the files run, and on what
        series = time_jobs(bench, jobs, replace(request.sampling, min_samples=1, max_samples=1), request.seed)
        nothing = MemoryUse(None, None, "The memory of a process on an emulated processor means nothing.")
        return {job: Figures(own, nothing) for job, own in series.items()}
    figures = {}
    for done, (job, own) in enumerate(time_jobs(bench, jobs, request.sampling, request.seed).items()):
        bench.progress("memory and energy" if request.energy else "memory", done, len(jobs), job.name)
        if own.failure is not None:
            figures[job] = Figures(own, MemoryUse(None, None, own.failure))
            continue
        energy = _energy(bench, job, own, request, state) if request.energy else None
        figures[job] = Figures(own, memory_of(bench, job), energy)
    bench.progress("memory and energy" if request.energy else "memory", len(jobs), len(jobs))
    return figures


def file_result(
    item: Known, job: PhoneJob, own: Figures, request: BenchRequest, engine_version: str, *, emulated: bool
) -> FileResult:
    """Returns the result of a job that succeeded.

    Args:
        item: file of the job.
        job: the job.
        own: measurements of the job.
        request: the request.
        engine_version: version of the program.
        emulated: whether to leave out times.
    """
    latency = None if emulated else phone_latency(own.series)
    runs, manifest = own.series.runs, item.manifest
    notes = list(dict.fromkeys(note for run in runs for note in shortfalls(run, job.backend)))
    if latency is not None:
        notes += series_notes(latency.values, latency.steady)
    if job.backend != "cpu":
        notes.append(
            f"THE ANSWERS ON THE {job.backend.upper()} WERE NOT CHECKED: {PROGRAM} gives none back, and what computes "
            "wrongly is no slower for it."
        )
    if job.backend == "gpu":
        notes.append("The GPU may compute in 16-bit floats; the GPU's own memory is not part of the peak memory.")
        checked = manifest.parity.gpu if manifest else None
        if checked is not None and checked.wrong:
            notes.append(f"WRONG ON GPUs, so these are times of wrong answers: {checked.wrong}")
    starts = Startup(tuple(run.init_s for run in runs), tuple(run.first_inference_s for run in runs))
    return FileResult(
        file=item.file.name,
        sha256=item.sha256,
        size_bytes=item.file.stat().st_size,
        precision=manifest.precision if manifest else None,
        engine=f"LiteRT {PROGRAM}, {DELEGATES[job.backend]}",
        engine_version=engine_version,
        threads=job.threads,
        batch=item.batch,
        measurements=() if latency is None else (latency,),
        memory=own.memory,
        startup=starts if request.startup and not emulated else None,
        macs=manifest.macs if manifest else None,
        arithmetic=ARITHMETIC.get(manifest.precision) if manifest and job.backend == "cpu" else None,
        energy=own.energy,
        notes=tuple(notes),
        metrics={} if job.backend == "cpu" else {"answers": UNCHECKED},
    )


def _energy(bench: Bench, job: PhoneJob, series: Series, request: BenchRequest, state: AndroidState) -> Energy:
    """Measures the energy of a job in processes that each last one window, so that loading hardly counts."""

    def shell(line: str) -> str | None:
        try:
            return bench.adb.text_of(line)
        except PocketVitError as error:  # it may run in a thread, where nothing catches other errors
            raise SourceError(str(error)) from None

    source: PolledPower | NoSource = find_gauge(shell, state.battery, clock=bench.clock, sleep=bench.sleep)
    window_s = WINDOW_S if isinstance(source, NoSource) else max(WINDOW_S, UPDATES * source.resolution_s)
    count = max(1, math.ceil(1.2 * window_s / max(median(series.values), 1e-6)))
    most_s = _LONGEST * window_s
    options = BenchmarkOptions(job.remote, job.backend, job.threads, runs=count, warmup_s=0.0, most_s=most_s)

    def run() -> None:
        ran = run_once(bench, job, options, extra_s=most_s)
        if ran.warmup.count + ran.regular.count != count + 1:
            raise RunError(f"{PROGRAM} did not run as often as asked", expected=count, got=ran.regular.count)

    try:
        return measure_energy(
            run,
            count + 1,
            source,
            country=request.country,
            clock=bench.clock,
            sleep=bench.sleep,
            progress=bench.progress,
        )
    except PocketVitError as error:
        return Energy("unavailable", reason=str(error))
