"""Target ``cpu``: measures files on this machine's processor, each job in a separate process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from device_bench.documents.figures import ARITHMETIC, Arithmetic, Failure, MemoryUse, Peak
from device_bench.documents.measurement import Measurement, Sampling
from device_bench.documents.request import BenchRequest, check_files
from device_bench.documents.results import BenchResult, FileResult
from device_bench.machine.state import is_emulated, machine_state
from device_bench.metrics import METRICS
from device_bench.metrics.startup import REPEATS, Starts, measure_starts, without_folder
from device_bench.timing.isolated import sample_isolated
from device_bench.timing.steadiness import machine_notes, series_notes
from device_bench.timing.turns import Turns
from device_bench.worker.isolated import RunJob, run_isolated
from runtime import (
    Artifact,
    ArtifactError,
    Progress,
    decode,
    encode,
    manifest_path,
    read_artifact,
    sha256_of,
    silent,
    tool_version,
)
from runtime.engines import ENGINES
from runtime.worker.child import Reporter

from .base import Device, Target
from .finding import Finding

_PEAK_TRIES = 3


@dataclass(frozen=True)
class _Known:
    """What is known of a file before it is timed."""

    file: Path
    manifest: Artifact | None
    sha256: str
    starts: Starts


def bench_files(request: BenchRequest, progress: Progress = silent, *, run_job: RunJob = run_isolated) -> BenchResult:
    """Measures the files of ``request``, interleaved, one image at a time.

    A manifest is optional; a file that has one must match it. A file that does not match, cannot be loaded, crashes or
    hangs becomes a failure of the result, and the other files are measured.

    Args:
        request: what to measure of which files.
        progress: reports the files and rounds that are done.
        run_job: runs a job in a fresh process.

    Raises:
        ArtifactError: a file does not exist, or is no model file by its name.
        MeasurementError: a process that measures cannot be had.
    """
    check_files(request)
    known, failures = _start(request, progress, run_job)
    if is_emulated():
        return _answers_alone(request, known, failures, progress, run_job)
    precisions = {item.manifest.precision for item in known if item.manifest}
    arithmetics = sorted({ARITHMETIC[precision] for precision in precisions if precision in ARITHMETIC})
    peaks = _peaks(request, arithmetics, progress, run_job)
    turns, known, failed = _time(request, known, progress, run_job)
    results = tuple(_result(request, item, latency) for item, latency in zip(known, turns.latencies, strict=True))
    peaks, doubts = _peaks_above(request, arithmetics, peaks, results, progress, run_job)
    results = tuple(
        _with_metrics(request, item, result, progress, run_job) for item, result in zip(known, results, strict=True)
    )
    return BenchResult(
        target=request.target,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        seed=request.seed,
        sampling=request.sampling,
        before=turns.before,
        after=turns.after,
        files=results,
        failures=(*failures, *failed),
        peaks=peaks,
        notes=(*machine_notes(turns.before, turns.after), *doubts),
    )


def run_bench(
    reporter: Reporter, files: list[str], images: str | None, sampling: dict[str, Any], **options: Any
) -> BenchResult:
    """Runs ``bench_files`` as a job of ``device_bench.worker.child``; the arguments are those of a ``BenchRequest``."""
    request = BenchRequest(
        tuple(Path(file).resolve() for file in files),
        sampling=decode(Sampling, sampling, "the request"),
        images=Path(images) if images else None,
        **options,
    )
    return bench_files(request, reporter.progress)


def _answers_alone(
    request: BenchRequest, known: Sequence[_Known], failures: Sequence[Failure], progress: Progress, run_job: RunJob
) -> BenchResult:
    """Returns what is true of an emulated machine: that the files run there, and how they answer."""
    before = machine_state()
    unknown = MemoryUse(None, None, "the processor is emulated")
    results = []
    for item in known:
        bare = _result(request, item, None)
        results.append(_with_metrics(request, item, replace(bare, memory=unknown, startup=None), progress, run_job))
    return BenchResult(
        target=request.target,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        seed=request.seed,
        sampling=request.sampling,
        before=before,
        after=machine_state(),
        files=tuple(results),
        failures=tuple(failures),
        emulated=True,
    )


def _start(request: BenchRequest, progress: Progress, run_job: RunJob) -> tuple[list[_Known], list[Failure]]:
    """Looks at each manifest and starts each file in fresh processes; what fails is not run again."""
    known, failures = [], []
    for done, file in enumerate(request.files):
        progress("start", done, len(request.files), file.name)
        try:
            # the manifest first: its digest keeps damaged bytes from the engine
            manifest = read_artifact(file) if manifest_path(file).is_file() else None
        except ArtifactError as error:
            failures.append(Failure(file.name, without_folder(str(error), file)))
            continue
        repeats = REPEATS if request.startup and not is_emulated() else 1
        starts = measure_starts(file, request.threads, repeats=repeats, timeout_s=request.timeout_s, run_job=run_job)
        if starts.failure is not None:
            failures.append(Failure(file.name, starts.failure))
            continue
        known.append(_Known(file, manifest, manifest.sha256 if manifest else sha256_of(file), starts))
    progress("start", len(request.files), len(request.files))
    return known, failures


def _time(
    request: BenchRequest, known: Sequence[_Known], progress: Progress, run_job: RunJob
) -> tuple[Turns, list[_Known], list[Failure]]:
    """Times all files in turns; when one of them ends the process, times the others again without it.

    Raises:
        PocketVitError: the process ended in no file's turn.
    """
    left, failures = list(known), list[Failure]()
    while left:
        job = {
            "files": [str(item.file.resolve()) for item in left],
            "threads": request.threads,
            "sampling": encode(request.sampling),
            "seed": request.seed,
        }
        answer = run_job("latency", job, progress, silence_s=request.timeout_s)
        if answer.error is None:
            return decode(Turns, answer.value, "the times"), left, failures
        if answer.turn is None or not 0 <= answer.turn < len(left):
            raise answer.error
        guilty = left.pop(answer.turn)
        failures.append(Failure(guilty.file.name, without_folder(str(answer.error), guilty.file)))
    now = machine_state()
    return Turns((), now, now), [], failures


def _result(request: BenchRequest, item: _Known, latency: Measurement | None) -> FileResult:
    manifest = item.manifest
    return FileResult(
        file=item.file.name,
        sha256=item.sha256,
        size_bytes=item.file.stat().st_size,
        precision=manifest.precision if manifest else None,
        engine=item.starts.engine,
        engine_version=item.starts.engine_version,
        threads=request.threads,
        batch=item.starts.batch,
        measurements=(latency,) if latency else (),
        memory=item.starts.memory,
        startup=item.starts.startup if request.startup else None,
        macs=manifest.macs if manifest else None,
        arithmetic=ARITHMETIC.get(manifest.precision) if manifest else None,
        notes=series_notes(latency.values, latency.steady) if latency else (),
    )


def _with_metrics(
    request: BenchRequest, item: _Known, result: FileResult, progress: Progress, run_job: RunJob
) -> FileResult:
    """Adds each metric that is measured separately, each in its own process; a failure becomes a note."""
    for name, metric in METRICS.items():
        if metric.measure is None or not metric.wanted(request) or (is_emulated() and not metric.emulated):
            continue
        progress(name, 0, 1, result.file)
        job = {
            "metric": name,
            "file": str(item.file.resolve()),
            "threads": request.threads,
            "seed": request.seed,
        }
        answer = run_job("metric", {**job, "options": metric.options(request)}, progress, silence_s=request.timeout_s)
        if answer.error is not None:
            note = f"Its {name} could not be measured. {without_folder(str(answer.error), item.file)}"
            result = replace(result, notes=(*result.notes, note))
            continue
        value = decode(metric.type, answer.value, f"the {name} of {result.file}")
        figure: Mapping[str, Any] = {name: value}
        if name not in {field.name for field in fields(result)}:
            figure = {"metrics": {**result.metrics, name: encode(value)}}
        result = replace(result, **figure)
    return result


def _peaks(request: BenchRequest, arithmetics: Sequence[str], progress: Progress, run_job: RunJob) -> tuple[Peak, ...]:
    """Measures the machine's peaks once; an engine that cannot gives none."""
    if not (request.peaks and arithmetics):
        return ()
    progress("peaks", 0, 1)
    job = {"threads": request.threads, "arithmetics": list(arithmetics)}
    answer = run_job("peaks", job, progress, silence_s=request.timeout_s)
    progress("peaks", 1, 1)
    return () if answer.error is not None else decode(tuple[Peak, ...], answer.value, "the peaks")


def _peaks_above(
    request: BenchRequest,
    arithmetics: Sequence[str],
    before: tuple[Peak, ...],
    results: Sequence[FileResult],
    progress: Progress,
    run_job: RunJob,
) -> tuple[tuple[Peak, ...], tuple[str, ...]]:
    """Measures the peaks again after the files, and more often where a file was seen to do more than they say.

    Where that does not help, what the file did is the peak: no file ever is above it.
    """
    peaks = before
    for _ in range(_PEAK_TRIES):
        peaks = merged(peaks, _peaks(request, arithmetics, progress, run_job))
        above = [result.file for result in results if _is_above(result, peaks)]
        if request.peaks and arithmetics and not peaks:
            return (), ("The machine's peak arithmetic could not be measured.",)
        if not above:
            return peaks, ()
    seen = [
        Peak(one.engine, one.arithmetic, one.threads, (one.gflops_per_s,))
        for one in results
        if one.file in above and one.arithmetic and one.gflops_per_s
    ]
    # what it was seen to do, it can do
    return merged(peaks, seen), (
        f"The machine was slower while its peak was measured than while {', '.join(above)} ran: that file is its peak.",
    )


def _is_above(result: FileResult, peaks: Sequence[Peak]) -> bool:
    own = [peak.best for peak in peaks if (peak.arithmetic, peak.threads) == (result.arithmetic, result.threads)]
    return result.gflops_per_s is not None and bool(own) and result.gflops_per_s > max(own)


def merged(first: Sequence[Peak], second: Sequence[Peak]) -> tuple[Peak, ...]:
    """Returns the peaks of two measurements with the values of both."""
    values: dict[tuple[str, Arithmetic, int], tuple[float, ...]] = {}
    for peak in (*first, *second):
        key = (peak.engine, peak.arithmetic, peak.threads)
        values[key] = (*values.get(key, ()), *peak.gflops)
    return tuple(Peak(*key, gflops) for key, gflops in values.items())


def _bench(device: Device, request: BenchRequest, progress: Progress, *, stop: threading.Event) -> BenchResult:
    return bench_files(request, progress)


def _check(device: Device) -> tuple[Finding, ...]:
    versions = [(one, _version((one.package, *one.same))) for one in ENGINES.values() if one.package]
    # a missing engine that is not portable, such as torch, is no fault of a target
    return tuple(Finding(device.label, one.title, found, one.fix) for one, found in versions if found or one.portable)


def _version(packages: Sequence[str]) -> str | None:
    """Returns the version of the first of ``packages`` that is installed."""
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


CPU = Target(_bench, _check, "this machine's processor", local=True, time_together=sample_isolated)
