"""Target ``adb``: phones over adb, measured by LiteRT's ``benchmark_model`` or by the phone's own Python."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from device_bench.clock import Clock
from device_bench.documents.figures import Failure
from device_bench.documents.request import BenchRequest, check_files
from device_bench.documents.results import BenchResult
from device_bench.machine.state import MachineState
from device_bench.targets.base import Backend, Device, Target
from device_bench.targets.finding import Finding
from device_bench.targets.link import Link
from device_bench.targets.remote.bench import bench_over_link, findings_of
from device_bench.targets.remote.connection import Survey, run_on_device
from device_bench.timing.steadiness import machine_notes
from runtime import PocketVitError, Progress, UnsupportedTargetError, sha256_of, silent, tool_version

from .client import Adb, AdbRunner, SystemRunner, connect, explain_for, find_adb
from .figures import Figures, Known, file_result, look_at, measure_jobs
from .keeper import BASE, kept_folder
from .rounds import PROGRAM, Bench, PhoneJob
from .state import AndroidState, read_state, state_notes, state_words

_PUSH_S, _PUSH_BYTES_PER_S = 60.0, 0.5e6
_HOME = f'[ -w "$HOME" ] || export HOME={BASE}'  # adb's shell starts in the root folder, which it cannot write
_FIX_PROGRAM = (
    "Take benchmark_model from LiteRT's releases or build it from LiteRT's sources, and name it in targets.toml: "
    "benchmark_model = …; or have a Python on the phone, and name that: python = …"
)


@dataclass(frozen=True)
class _Whole:
    """The parts of a result that all backends share."""

    device: Device
    request: BenchRequest
    before: AndroidState
    after: AndroidState
    engine_version: str
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


def adb_link(device: Device, runner: AdbRunner | None = None) -> Link:
    """Returns the connection to a phone that has Python.

    Args:
        device: device whose address is ``adb:SERIAL``, or ``adb:`` for the only phone.
        runner: finds local programs; by default really.

    Raises:
        UnsupportedTargetError: there is no adb on this machine.
    """
    program = find_adb(runner or SystemRunner())
    # no terminal, so that bytes pass as they are
    words = [program, *(["-s", device.place] if device.place else []), "shell", "-T"]
    return Link(device.label, lambda line: [*words, f"{_HOME}; {line}"], explain_for(device.label))


def bench_over_adb(
    device: Device,
    request: BenchRequest,
    progress: Progress = silent,
    *,
    stop: threading.Event | None = None,
    runner: AdbRunner | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[BenchResult, ...]:
    """Measures files on a phone.

    A device with a ``benchmark_model`` is measured by it on each backend, in turns; a device without one is measured by
    the phone's Python, like a board.

    Args:
        device: device whose address is ``adb:SERIAL``, or ``adb:`` for the only phone.
        request: what to measure of which files; its target is ignored.
        progress: reports the files and values that are done.
        stop: once it is set, all work ends, on the phone too.
        runner: starts local programs; by default really.
        clock: a monotonic clock in nanoseconds.
        sleep: waits for some seconds.

    Returns:
        A result for each backend, with the failures of the files that failed on it.

    Raises:
        ArtifactError: a file does not exist, or is no model file by its name.
        UnsupportedTargetError: there is no adb, no usable phone, or no program that can measure on it.
        MeasurementError: the phone is gone, or the bench was stopped.
    """
    check_files(request)
    program = None if device.benchmark_model is None else _program(device.benchmark_model, device)
    runner = runner or SystemRunner(stop or threading.Event())
    adb = connect(device, runner)
    if program is not None:
        return _bench_with_program(device, request, adb, program, progress, clock=clock, sleep=sleep)
    if not _has_python(adb, device):
        raise UnsupportedTargetError(f"There is nothing that could measure on {device.label}", fix=_FIX_PROGRAM)
    return (bench_over_link(device, adb_link(device, runner), request, progress, stop=stop),)


def check_adb(device: Device, *, runner: AdbRunner | None = None) -> tuple[Finding, ...]:
    """Returns what is there and what is missing on a phone and on this machine; the check leaves nothing behind.

    Args:
        device: device whose address is ``adb:SERIAL``, or ``adb:`` for the only phone.
        runner: starts local programs; by default really.
    """
    label, found, runner = device.label, list[Finding](), runner or SystemRunner()
    try:
        found.append(Finding(label, "adb", find_adb(runner)))
        adb = connect(device, runner)
        state = read_state(adb.text_of)
        kind = [state.machine.board or adb.serial, state.machine.os or "", state.machine.architecture or ""]
        found.append(Finding(label, "phone", ", ".join(word for word in kind if word)))
        found.append(Finding(label, "heat and battery", state_words(state)))
        python = device.benchmark_model is None and _has_python(adb, device)
    except PocketVitError as error:
        return (*found, Finding(label, "phone" if found else "adb", None, str(error)))
    return (*found, *(_look_at_python(device, runner) if python else (_look_at_program(device),)))


def _look_at_program(device: Device) -> Finding:
    if device.benchmark_model is None:
        return Finding(device.label, PROGRAM, None, _FIX_PROGRAM)
    try:
        program, digest = _program(device.benchmark_model, device)
    except PocketVitError as error:
        return Finding(device.label, PROGRAM, None, str(error))
    return Finding(device.label, PROGRAM, f"{program}, sha256 {digest[:12]}")


def _look_at_python(device: Device, runner: AdbRunner) -> tuple[Finding, ...]:
    surveys: list[Survey] = []
    try:
        run_on_device(adb_link(device, runner), device.python, surveys.append)
    except PocketVitError as error:
        return (Finding(device.label, "link", None, str(error)),)
    return findings_of(device, surveys[0])


def _has_python(adb: Adb, device: Device) -> bool:
    return adb.text_of(f"command -v {shlex.quote(device.python)}") is not None


def _bench_with_program(
    device: Device,
    request: BenchRequest,
    adb: Adb,
    program: tuple[Path, str],
    progress: Progress,
    *,
    clock: Clock,
    sleep: Callable[[float], None],
) -> tuple[BenchResult, ...]:
    known, failures = look_at(request)
    with kept_folder(adb) as kept:
        _send_program(adb, program[0], kept.path)
        known, unsent = _send(adb, known, kept.path, progress)
        before = read_state(adb.text_of)
        bench = Bench(adb, kept, request.timeout_s, clock, sleep, progress)
        threads = device.threads or request.threads
        jobs = [PhoneJob(item.file.name, item.remote, on, threads) for on in device.backends for item in known]
        figures = measure_jobs(bench, jobs, request, before)
        after = read_state(adb.text_of)
    notes = _notes(before, after, request, kept.path if kept.left_behind else None)
    whole = _Whole(device, request, before, after, f"sha256 {program[1][:12]}", (*failures, *unsent), notes)
    return tuple(_result(whole, on, known, figures) for on in device.backends)


def _program(program: Path, device: Device) -> tuple[Path, str]:
    """Returns the path of LiteRT's program for the phone and its SHA-256.

    Raises:
        UnsupportedTargetError: it is missing, or has another digest.
    """
    if not program.is_file():
        raise UnsupportedTargetError(f"The benchmark_model {program} does not exist", fix=_FIX_PROGRAM)
    digest = sha256_of(program)
    if device.benchmark_model_sha256 not in (None, digest):
        raise UnsupportedTargetError(
            f"The benchmark_model {program} is not the one that was meant",
            expected=f"sha256 {device.benchmark_model_sha256}",
            got=digest,
            fix="Get it again, or give the digest of the new one in targets.toml",
        )
    return program, digest


def _send_program(adb: Adb, program: Path, folder: str) -> None:
    why = _push(adb, program, f"{folder}/{PROGRAM}")
    if why is not None:
        raise UnsupportedTargetError(
            f"{PROGRAM} cannot be sent to {adb.label}", got=why, fix="See whether there is space on the phone"
        )
    adb.shell(f"chmod 700 {folder}/{PROGRAM}")


def _send(adb: Adb, known: Sequence[Known], folder: str, progress: Progress) -> tuple[list[Known], list[Failure]]:
    sent, failures = [], []
    for done, item in enumerate(known):
        progress("send", done, len(known), item.file.name)
        why = _push(adb, item.file, f"{folder}/{item.remote}")
        if why is None:
            sent.append(item)
        else:
            failures.append(Failure(item.file.name, f"It could not be sent to the phone. {why}"))
    progress("send", len(known), len(known))
    return sent, failures


def _push(adb: Adb, file: Path, remote: str) -> str | None:
    """Sends a file and returns the reason if it fails; the absolute path cannot be taken for an option of adb."""
    seconds = _PUSH_S + file.stat().st_size / _PUSH_BYTES_PER_S
    try:
        done = adb.call("push", str(file.resolve()), remote, seconds=seconds)
    except TimeoutError as error:
        return str(error)
    if done.status == 0:
        return None
    return (done.said.splitlines() or ["no message"])[-1].replace(str(file.resolve()), file.name)[:300]


def _result(whole: _Whole, on: Backend, known: Sequence[Known], figures: Mapping[PhoneJob, Figures]) -> BenchResult:
    items = {item.remote: item for item in known}
    own = {job: figure for job, figure in figures.items() if job.backend == on}
    failed = [Failure(job.name, figure.series.failure) for job, figure in own.items() if figure.series.failure]
    return BenchResult(
        target=whole.device.address if whole.device.backends == ("cpu",) else f"{whole.device.label}:{on}",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        seed=whole.request.seed,
        sampling=whole.request.sampling,
        before=whole.before.machine,
        after=whole.after.machine,
        files=tuple(
            file_result(
                items[job.remote], job, figure, whole.request, whole.engine_version, emulated=whole.before.emulated
            )
            for job, figure in own.items()
            if figure.series.failure is None
        ),
        failures=(*whole.failures, *failed),
        notes=whole.notes,
        emulated=whole.before.emulated,
    )


def _notes(before: AndroidState, after: AndroidState, request: BenchRequest, left: str | None) -> tuple[str, ...]:
    notes = [*machine_notes(_busy(before.machine), _busy(after.machine)), *state_notes(before, after)]
    notes.append(f"Before: {state_words(before)}. After: {state_words(after)}.")
    asked = {"throughput": request.throughput_s > 0, "accuracy": request.images is not None}
    undone = [name for name, wanted in asked.items() if wanted]
    if undone:
        notes.append(f"{PROGRAM} does not measure {' and '.join(undone)}: use a Python on the phone.")
    if left is not None:
        notes.append(f"The folder {left} may still be on the phone; the next bench there removes it.")
    return tuple(notes)


def _busy(machine: MachineState) -> MachineState:
    """Returns the state without clocks: they are read between processes, when a phone is at its lowest clock."""
    return replace(machine, clocks_hz=None)


ADB = Target(bench_over_adb, check_adb, "Android phones", {"adb": "sudo apt install adb"})
