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
"""Begins the line in which a process says which step it begins."""

_LAST_LINES = 8
_LOOK_S = 0.2
_GRACE_S = 10.0


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        command: of ``pocketvit``, or ``fine-tune`` or ``answer``.
        words: its options.
        plain: whether it is of no run, so that its options are all there is to it.
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
    """What is done in one folder.

    Attributes:
        name: of the folder in that of the study.
        steps: one after another.
        threads: cores that it keeps busy.
        needs: the work whose model it starts from; empty for none.
    """

    name: str
    steps: tuple[Step, ...]
    threads: int
    needs: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit of work.

    Attributes:
        name: of the work.
        error: what went wrong; none where nothing did.
        where: the machine that did it.
        stopped: whether it was stopped, so that it is neither done nor failed.
    """

    name: str
    error: str | None
    where: str
    stopped: bool = False


class Process(Protocol):
    """A process that was started."""

    pid: int

    def poll(self) -> int | None:
        """Returns its exit code, or None while it runs."""


Start = Callable[[Sequence[Sequence[str]], Path, Path], Process]


def start(steps: Sequence[Sequence[str]], folder: Path, log: Path) -> Process:
    """Starts steps in a process of their own, out of reach of the terminal's Ctrl-C, that ends when this one does.

    Args:
        steps: the commands, one after another.
        folder: whose working time is kept, where it is a run's.
        log: gets what it says on stderr.
    """
    kept = folder if (folder / "run.json").is_file() else "-"
    words = [word for step in steps for word in (THEN, *step)]
    arguments = [sys.executable, "-m", "pocketvit.cli.study_child", str(os.getpid()), str(kept), *words]
    with storage_errors(log), log.open("ab") as handle:
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=handle, start_new_session=True
        )


def do(work: Work, root: Path, stop: threading.Event, where: str, *, starter: Start = start) -> Outcome:
    """Does the steps of ``work`` in ``root``; a step that fails ends it.

    Args:
        work: what to do; its folder is there.
        root: the study's folder.
        stop: set to end it early.
        where: what to call this machine.
        starter: starts a process.
    """
    folder = root / work.name
    log = folder / LOG
    if stop.is_set():
        return Outcome(work.name, None, where, stopped=True)
    said_before = log.stat().st_size if log.is_file() else 0
    try:
        code = wait_for(starter([step.line(folder) for step in work.steps], folder, log), stop)
    except (OSError, StorageError) as error:
        return Outcome(work.name, f"It could not be started: {error}", where)
    if stop.is_set() and code:
        return Outcome(work.name, None, where, stopped=True)
    return Outcome(work.name, _said(code, log, said_before) if code else None, where)


def wait_for(process: Process, stop: threading.Event) -> int:
    """Waits for a process, or ends it once ``stop`` is set: politely, and after a while not.

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


def _end(process: Process) -> int:
    """Asks a process to end, and after a while ends it."""
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


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _said(code: int, log: Path, before: int) -> str:
    """Returns the last that a failed process said, and in which step."""
    with log.open("rb") as handle:
        handle.seek(before)
        lines = [line for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    begun = [position for position, line in enumerate(lines) if line.startswith(SAYS)]
    step = lines[begun[-1]].removeprefix(SAYS).split()[0] if begun else "It"
    lines = lines[begun[-1] + 1 :] if begun else lines
    told = [position for position, line in enumerate(lines) if line.startswith("error: ")]
    last = "\n".join(lines[told[-1] :] if told else lines[-_LAST_LINES:]).removeprefix("error: ")
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"{step} {ended}. {last}".strip()
