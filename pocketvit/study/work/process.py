"""A unit of work, in one folder: a process that does one step after another, until one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime import StorageError, storage_errors

LOG = "stderr.log"
THEN = "THEN"
"""Begins each step of a process."""

SAYS = "$ pocketvit "
"""Begins the log line that names a step."""

_LAST_LINES = 8
_LOOK_S = 0.2
_GRACE_S = 10.0


@dataclass(frozen=True)
class WorkStep:
    """One step.

    Attributes:
        command: command of ``pocketvit``, or ``fine-tune`` or ``answer``.
        words: options of the command.
        plain: whether the command belongs to no run and needs no other words.
    """

    command: str
    words: tuple[str, ...] = ()
    plain: bool = False

    def line(self, folder: Path) -> tuple[str, ...]:
        """Returns the whole command that does this step for the run in ``folder``."""
        if self.command in ("fine-tune", "answer"):
            return self.command, str(folder)
        if self.command == "export":
            return self.command, str(folder), *self.words
        if self.plain:
            return self.command, *self.words
        return self.command, *self.words, "--name", folder.name, "--runs", str(folder.parent), "--resume"


@dataclass(frozen=True)
class Work:
    """Work in one folder.

    Attributes:
        name: name of the folder in the study's folder.
        steps: the steps, in order.
        threads: cores that the work keeps busy.
        needs: the work whose model it starts from; empty for none.
    """

    name: str
    steps: tuple[WorkStep, ...]
    threads: int
    needs: str = ""


@dataclass(frozen=True)
class WorkOutcome:
    """The outcome of a unit of work.

    Attributes:
        name: name of the work.
        error: the error; None if the work succeeded.
        where: the machine that did the work.
        stopped: whether the work was stopped, so that it is neither done nor failed.
    """

    name: str
    error: str | None
    where: str
    stopped: bool = False


class StepProcess(Protocol):
    """A process that was started."""

    pid: int

    def poll(self) -> int | None:
        """Returns its exit code, or None while it runs."""


StartProcess = Callable[[Sequence[Sequence[str]], Path, Path], StepProcess]


def start_process(steps: Sequence[Sequence[str]], folder: Path, log: Path) -> StepProcess:
    """Starts steps in a new process, which the terminal's Ctrl-C does not reach and which ends with this one.

    Args:
        steps: the commands, in order.
        folder: folder of a run, whose working time is kept, or another folder.
        log: file for the process's stderr.
    """
    kept = folder if (folder / "run.json").is_file() else "-"
    words = [word for step in steps for word in (THEN, *step)]
    arguments = [sys.executable, "-m", "pocketvit.cli.study_child", str(os.getpid()), str(kept), *words]
    with storage_errors(log), log.open("ab") as handle:
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=handle, start_new_session=True
        )


def do(
    work: Work, root: Path, stop: threading.Event, where: str, *, starter: StartProcess = start_process
) -> WorkOutcome:
    """Does the steps of ``work`` in ``root``; a step that fails ends it.

    Args:
        work: the work, whose folder exists.
        root: the study's folder.
        stop: event that ends the work early.
        where: name of this machine.
        starter: starts a process.
    """
    folder = root / work.name
    log = folder / LOG
    if stop.is_set():
        return WorkOutcome(work.name, None, where, stopped=True)
    size_before = log.stat().st_size if log.is_file() else 0
    try:
        code = wait_for(starter([step.line(folder) for step in work.steps], folder, log), stop)
    except (OSError, StorageError) as error:
        return WorkOutcome(work.name, f"It could not be started: {error}", where)
    if stop.is_set() and code:
        return WorkOutcome(work.name, None, where, stopped=True)
    return WorkOutcome(work.name, _error_in(code, log, size_before) if code else None, where)


def wait_for(process: StepProcess, stop: threading.Event) -> int:
    """Waits for a process, or ends it once ``stop`` is set: by an interrupt, and after some seconds by a kill.

    Raises:
        KeyboardInterrupt: the user stopped this process; the other one has ended.
    """
    try:
        while (code := process.poll()) is None and not stop.wait(_LOOK_S):
            pass
        return _end(process) if code is None else code
    except KeyboardInterrupt:
        _end(process)
        raise


def _end(process: StepProcess) -> int:
    """Interrupts a process, and kills it after some seconds."""
    _signal(process, signal.SIGINT)
    never = threading.Event()
    for _ in range(round(_GRACE_S / _LOOK_S)):
        code = process.poll()
        if code is not None:
            return code
        never.wait(_LOOK_S)
    _signal(process, signal.SIGKILL)
    while (code := process.poll()) is None:
        never.wait(_LOOK_S)
    return code


def _signal(process: StepProcess, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _error_in(code: int, log: Path, before: int) -> str:
    """Returns the last lines of a failed process, and the step they are from."""
    with log.open("rb") as handle:
        handle.seek(before)
        lines = [line for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    begun = [position for position, line in enumerate(lines) if line.startswith(SAYS)]
    step = lines[begun[-1]].removeprefix(SAYS).split()[0] if begun else "It"
    lines = lines[begun[-1] + 1 :] if begun else lines
    errors = [position for position, line in enumerate(lines) if line.startswith("error: ")]
    last = "\n".join(lines[errors[-1] :] if errors else lines[-_LAST_LINES:]).removeprefix("error: ")
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"{step} {ended}. {last}".strip()
