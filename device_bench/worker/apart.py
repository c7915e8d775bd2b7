"""Jobs done by a process of their own, so that what this one has loaded and allocated does not colour the times.

Beside the heap and the threads of a training framework, the same two files were measured 5 % apart that are 25 %
apart in a fresh process. And a file that crashes or hangs its engine takes that process with it, not this one.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from device_bench.documents.answers import error_of, parse_answer
from device_bench.machine.state import machine_state
from device_bench.metrics.stats import percentile
from device_bench.metrics.steadiness import machine_notes
from runtime import MeasurementError, PocketVitError, Progress, decode, silent

SILENCE_S = 120.0
"""So long may a job give no sign."""

NOBODY = -1
"""The turn of no file."""


@dataclass(frozen=True)
class Samples:
    """Latencies of files that took turns.

    Attributes:
        seconds: of every timed run of each file, in their order, s.
        notes: what disturbed the machine meanwhile, in plain words; empty where nothing did.
    """

    seconds: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = ()


_TURN = struct.Struct("<qq")


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
        result: as JSON values; none when it failed.
        error: why it failed; none when it did not.
        turn: the number of the file whose turn it was at the end; none when it was no file's.
    """

    result: Any = None
    error: PocketVitError | None = None
    turn: int | None = None


Ask = Callable[..., Answer]


def time_apart(files: Sequence[Path], *, threads: int = 1, rounds: int = 12, percent: float = 25) -> tuple[float, ...]:
    """Returns a low percentile of the latency of each of many small files, s; see ``samples_apart``.

    A low one, since with few runs the median still holds much of what else the machine did.

    Args:
        files: as ``samples_apart`` takes them.
        threads: of each engine, at least 1.
        rounds: timed runs of each.
        percent: which percentile, 0..100.

    Raises:
        MeasurementError: ``percent`` is out of range; and whatever ``samples_apart`` raises.
    """
    timed = samples_apart(files, threads=threads, rounds=rounds)
    return tuple(percentile(own, percent) for own in timed.seconds)


def samples_apart(files: Sequence[Path], *, threads: int = 1, rounds: int = 12) -> Samples:
    """Does what ``time_files`` does, in a fresh process, and watches the machine meanwhile.

    Raises:
        MeasurementError: the process died or hung; and whatever ``time_files`` raises.
    """
    request = {"files": [str(path.resolve()) for path in files], "threads": threads, "rounds": rounds}
    before = machine_state()
    answer = ask("time", request)
    if answer.error is not None:
        raise answer.error
    seconds = decode(tuple[tuple[float, ...], ...], answer.result, "the times")
    return Samples(seconds, machine_notes(before, machine_state()))


def ask(
    job: str,
    request: dict[str, Any],
    progress: Progress = silent,
    *,
    silence_s: float = SILENCE_S,
    command: Sequence[str] | None = None,
) -> Answer:
    """Has a job of ``child`` done by a fresh process, and says what became of it; it raises nothing of the job's.

    Args:
        job: its name.
        request: what it is to do, as JSON values.
        progress: told what the job tells.
        silence_s: a job that gives no sign for so long is ended, s.
        command: what to run instead of ``child``.
    """
    # -P: a folder named like one of our packages, where the user stands, must not be imported in its stead.
    command = command or (sys.executable, "-P", "-m", f"{__package__}.child")
    with (
        tempfile.TemporaryFile() as said,
        tempfile.NamedTemporaryFile() as turns,
    ):
        turns.write(_TURN.pack(NOBODY, 0))
        turns.flush()
        text = json.dumps({"job": job, "turns": turns.name, **request})
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace",
                env=_environment(),
            )  # fmt: skip
        except OSError as error:
            return Answer(error=MeasurementError("The process that measures could not be started", got=error.strerror))
        with process as child, mmap.mmap(turns.fileno(), _TURN.size) as marker:
            assert child.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # a child that died at once; its status is told below
                    child.stdin.write(text)
                    child.stdin.close()
                return _listen(child, marker, said, progress, silence_s)
            finally:
                if child.poll() is None:
                    child.kill()


def marker_of(path: str) -> Callable[[int], None]:
    """Returns a function for the child's side that says whose turn it is, in a microsecond: memory, and no message.

    Args:
        path: of the file that the parent looks at.
    """
    with Path(path).open("r+b") as file:
        shared = mmap.mmap(file.fileno(), _TURN.size)
    count = 0

    def turn(number: int) -> None:
        nonlocal count
        count += 1
        _TURN.pack_into(shared, 0, number, count)

    return turn


def _environment() -> dict[str, str]:
    packages = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{inherited}" if inherited else packages}


def _listen(
    child: subprocess.Popen[str], marker: mmap.mmap, said: IO[bytes], progress: Progress, silence_s: float
) -> Answer:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pass_on, args=(child, lines), daemon=True).start()
    seen, until = b"", 0.0
    while True:
        now = time.monotonic()
        if marker[:] != seen:
            seen, until = marker[:], now + silence_s
        if now > until:
            child.kill()
            return Answer(error=_hung(silence_s), turn=_turn(marker))
        try:
            line = lines.get(timeout=min(0.5, silence_s / 4))
        except queue.Empty:
            continue
        if line is None:
            return Answer(error=_ended(child, said), turn=_turn(marker))
        answer = parse_answer(line)
        if "result" in answer:
            return Answer(result=answer["result"])
        if "error" in answer:
            return Answer(error=error_of(answer), turn=_turn(marker))
        if "progress" in answer:
            until = now + silence_s
            progress(*answer["progress"])


def _pass_on(child: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert child.stdout is not None
    with contextlib.suppress(ValueError):  # closed meanwhile
        for line in child.stdout:
            lines.put(line)
    lines.put(None)


def _turn(marker: mmap.mmap) -> int | None:
    number: int = _TURN.unpack(marker[:])[0]
    return None if number == NOBODY else number


def _hung(silence_s: float) -> MeasurementError:
    return MeasurementError(f"The process gave no sign for {silence_s:g} s and was stopped")


def _ended(child: subprocess.Popen[str], said: IO[bytes]) -> MeasurementError:
    """Says how a process ended that gave no answer."""
    try:
        status = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return MeasurementError("The process closed its output and gave no answer")
    if status < 0:
        try:
            how = signal.Signals(-status).name
        except ValueError:
            how = f"signal {-status}"
        return MeasurementError(f"The process was killed by {how}")
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4000))
    lines = said.read().decode(errors="replace").strip().splitlines() or ["no message"]
    return MeasurementError(f"The process ended with status {status}", got=lines[-1][:300])
