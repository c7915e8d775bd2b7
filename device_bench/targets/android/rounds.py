"""Times files on a phone in turns, by many short processes of ``benchmark_model``."""

from __future__ import annotations

import random
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from device_bench.clock import Clock
from device_bench.documents.figures import MemoryUse
from device_bench.documents.measurement import Measurement, Sampling
from device_bench.targets.base import Backend
from device_bench.timing.measure import STEADY
from runtime import MeasurementError, Progress, UnsupportedTargetError, silent

from .benchmark_model import RUNS, BenchmarkOptions, BenchmarkRun, command, parse, reason
from .client import Adb
from .keeper import Kept, end_all_in

PROGRAM = "benchmark_model"

_CANNOT_RUN = (126, 127)  # a shell's own statuses for a program it cannot start
_SLACK_S = 5.0


class RunError(MeasurementError):
    """A file that the program cannot run on the phone; other files are not affected."""


@dataclass(frozen=True)
class PhoneJob:
    """One file on one backend.

    Attributes:
        name: name of the file, which never reaches the phone.
        remote: name on the phone.
        backend: backend to run on.
        threads: threads of the CPU.
    """

    name: str
    remote: str
    backend: Backend
    threads: int


@dataclass
class Series:
    """The runs of a job, or its failure.

    Attributes:
        runs: output of each process.
        failure: reason why the job failed; None if it did not.
    """

    runs: list[BenchmarkRun] = field(default_factory=list)
    failure: str | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """The time of each timed run in order, s."""
        return tuple(value for run in self.runs for value in run.regular.raw_s or ())


@dataclass(frozen=True)
class Bench:
    """The program and its files on a phone, ready to run.

    Attributes:
        adb: the phone.
        kept: folder on the phone.
        timeout_s: time after which a process counts as hung, s.
        clock: a monotonic clock in nanoseconds.
        sleep: waits for some seconds.
        progress: reports what is done.
    """

    adb: Adb
    kept: Kept
    timeout_s: float
    clock: Clock = time.perf_counter_ns
    sleep: Callable[[float], None] = time.sleep
    progress: Progress = silent


def run_once(
    bench: Bench, job: PhoneJob, options: BenchmarkOptions | None = None, *, extra_s: float = 0.0
) -> BenchmarkRun:
    """Runs a file in one process of the program.

    Args:
        bench: the program and its files on the phone.
        job: what to run.
        options: options of the process; by default those with which the time of each run is known.
        extra_s: time that the process may take beyond the usual, s.

    Raises:
        RunError: the file hangs, crashes, or the program cannot run it.
        UnsupportedTargetError: the phone cannot run the program at all.
        MeasurementError: the phone is disconnected.
    """
    options = options or _options(job, RUNS, bench.timeout_s)
    seconds = bench.timeout_s + extra_s
    line = f"cd {shlex.quote(bench.kept.path)} && exec {shlex.join(command(options, f'./{PROGRAM}'))}"
    try:
        done = bench.adb.call("shell", "-n", "-T", line, seconds=seconds + _SLACK_S)
    except TimeoutError:
        bench.adb.shell(end_all_in(bench.kept.path))  # which says so itself if it is the phone that hangs
        raise RunError(f"It gave no result within {seconds:g} s, and was ended") from None
    if done.status == 0:
        return _checked(parse_named(job, done.said), options)
    if bench.kept.lost:
        raise MeasurementError(
            f"The link to {bench.adb.label} was cut",
            fix="See that the phone stays connected, and try again; what ran there has ended, and its folder is gone",
        )
    if done.status in _CANNOT_RUN:
        raise UnsupportedTargetError(
            f"{bench.adb.label} cannot run this {PROGRAM}",
            got=reason(done.said),
            fix="Take one that was built for its processor (adb shell getprop ro.product.cpu.abi says which)",
        )
    raise RunError(f"{PROGRAM} ended with {_ending(done.status)}", got=_named(job, reason(done.said)))


def parse_named(job: PhoneJob, text: str) -> BenchmarkRun:
    """Parses the output of the program for ``job``.

    Raises:
        RunError: it failed, or its output is truncated.
    """
    try:
        return parse(text)
    except MeasurementError as error:
        raise RunError(_named(job, str(error))) from None


def time_jobs(bench: Bench, jobs: Sequence[PhoneJob], sampling: Sampling, seed: int = 0) -> dict[PhoneJob, Series]:
    """Runs each job once per round in a fresh process, in a new random order for each round.

    What slows the phone for a while, mostly heat, then slows all jobs alike. Fresh processes average out the effect of
    addresses in memory.

    Args:
        bench: the program and its files on the phone.
        jobs: jobs to run.
        sampling: how long to measure; loading and warm-up count as well.
        seed: seed of the order within the rounds.

    Raises:
        UnsupportedTargetError: the phone cannot run the program at all.
        MeasurementError: the phone is disconnected.
    """
    series = {job: Series() for job in jobs}
    order, start, budget_s = random.Random(seed), bench.clock(), sampling.seconds * len(jobs)
    while alive := [job for job in jobs if series[job].failure is None]:
        for job in order.sample(alive, len(alive)):
            left = sampling.max_samples - len(series[job].values)
            try:
                series[job].runs.append(run_once(bench, job, _options(job, max(1, min(RUNS, left)), bench.timeout_s)))
            except RunError as error:
                series[job].failure = str(error)
        had = min((len(series[job].values) for job in alive if series[job].failure is None), default=0)
        spent_s = (bench.clock() - start) * 1e-9
        bench.progress("measure", had, _expected(sampling, had, spent_s, budget_s))
        if had >= sampling.max_samples or (had >= sampling.min_samples and spent_s >= budget_s):
            break
    return series


def phone_latency(series: Series) -> Measurement:
    """Returns the latency of a job: every timed run, and the first and last warm-up run of each process.

    The warm-up is steady if the median of its last runs equals that of the timed runs.
    """
    warmups = tuple(
        value for run in series.runs for value in (run.warmup.first_s, run.warmup.last_s)[: run.warmup.count]
    )
    rises = [run.warmup.last_s / median(run.regular.raw_s or (run.regular.mean_s,)) - 1 for run in series.runs]
    return Measurement("latency", "s", series.values, warmups, abs(median(rises)) <= STEADY)


def memory_of(bench: Bench, job: PhoneJob) -> MemoryUse:
    """Measures the peak memory of a job in a separate process, since watching memory costs time."""
    options = BenchmarkOptions(job.remote, job.backend, job.threads, most_s=bench.timeout_s, peak_memory=True)
    try:
        run = run_once(bench, job, options)
    except RunError as error:
        return MemoryUse(None, None, f"Its memory could not be measured. {error}")
    if not run.peak_bytes:
        return MemoryUse(None, None, f"This {PROGRAM} does not tell peak memory.")
    before = run.peak_bytes - (run.overall_bytes or 0)
    if run.overall_bytes is None or before <= 0:
        return MemoryUse(run.peak_bytes, None, f"This {PROGRAM} does not tell its memory before loading.")
    return MemoryUse(run.peak_bytes, before)


def _options(job: PhoneJob, runs: int, most_s: float) -> BenchmarkOptions:
    return BenchmarkOptions(job.remote, job.backend, job.threads, runs=runs, most_s=most_s)


def _checked(run: BenchmarkRun, options: BenchmarkOptions) -> BenchmarkRun:
    if options.runs <= RUNS and run.regular.raw_s is None:
        raise RunError(f"{PROGRAM} did not run as often as asked", expected=options.runs, got=run.regular.count)
    return run


def _named(job: PhoneJob, text: str) -> str:
    return text.replace(job.remote, job.name)


def _ending(status: int) -> str:
    number = status - 128 if status > 128 else -status
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:
        return f"status {status}"


def _expected(sampling: Sampling, had: int, spent_s: float, budget_s: float) -> int:
    affordable = sampling.max_samples if spent_s <= 0 else int(had * budget_s / spent_s)
    return max(had, min(sampling.max_samples, max(sampling.min_samples, affordable)))
