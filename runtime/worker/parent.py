"""The parent's side of a worker process: it starts the process, sends jobs, and survives whatever happens there."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import PocketVitError
from runtime.progress import Progress, silent

from .child import NO_TURN, TURN
from .messages import carried_error, parse_message

SILENCE_S = 120.0
"""The default time after which a worker without a sign of life is killed, s."""

_LONGEST_LINE = 2**26
_LOOK_EVERY_S = 0.5
_LAST_LINE_S = 0.2
_PATIENCE_S = 5.0
_END_BYTES = 4000


@dataclass(frozen=True)
class JobResult:
    """The outcome of a job.

    Attributes:
        value: the result as JSON values; none when the job failed.
        error: why it failed; none when it did not.
        turn: number of the file that was in use when it failed; none when no file was.
    """

    value: Any = None
    error: PocketVitError | None = None
    turn: int | None = None

    def checked(self) -> Any:
        """Returns the value.

        Raises:
            PocketVitError: the job failed.
        """
        if self.error is not None:
            raise self.error
        return self.value


class WorkerError(Exception):
    """A worker process that hung or ended during a job.

    Args:
        hung: whether it was killed after its silence limit; otherwise it ended.
        status: its exit status, negative for a signal; none where it hung or closed its output without ending.
        lines: beginning and end of what it wrote to stderr, printable and without empty lines.
        doing: library and activity that the job named last, such as ``("LiteRT", "loading")``; none before that.
    """

    def __init__(self, hung: bool, status: int | None, lines: Sequence[str], doing: tuple[str, str] | None) -> None:
        super().__init__(hung, status)
        self.hung, self.status, self.lines, self.doing = hung, status, tuple(lines), doing

    @property
    def how(self) -> str:
        """How the process ended, such as ``signal SIGSEGV``."""
        if self.status is None:
            return "a closed output"
        if self.status >= 0:
            return f"exit status {self.status}"
        return f"signal {signal_name(-self.status)}"

    @property
    def last_line(self) -> str:
        """The last line on stderr, or an empty text."""
        return self.lines[-1] if self.lines else ""


def signal_name(number: int) -> str:
    """Returns the name of a signal, such as ``SIGSEGV``, or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def python_module(name: str) -> tuple[str, ...]:
    """Returns the command that runs a module of ours in another Python process."""
    # without -P a folder named `runtime` in the working directory would be imported in place of ours
    return sys.executable, "-P", "-m", name


class MessageProcess:
    """A process that writes messages to stdout; a thread reads them and a scratch file keeps its stderr.

    It leads a session and process group, so that whatever it starts can be killed with it.

    Args:
        command: program and arguments.
        env: its environment; by default that of this process.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._stderr = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=env,
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._stderr.close()
            raise
        assert self.process.stdin is not None
        self.stdin = self.process.stdin
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """Returns the next message, an empty one for a line that is none, or None once the output or process ended.

        Raises:
            queue.Empty: nothing came in time.
        """
        line: bytes | None = None
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            if self.process.poll() is None:
                raise
            # its last line may be under way, and a process that it started may keep its output open
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=_LAST_LINE_S)
        return None if line is None else parse_message(line)

    def stderr_lines(self) -> list[str]:
        """Returns beginning and end of what it wrote to stderr, as printable lines that are not empty."""
        # the process shares the file's position, so it must not be moved
        file = self._stderr.fileno()
        size = os.fstat(file).st_size
        data = os.pread(file, _END_BYTES, 0)
        if size > _END_BYTES:
            data += os.pread(file, _END_BYTES, max(_END_BYTES, size - _END_BYTES))
        lines = data.decode(errors="replace").splitlines()
        return [text for line in lines if (text := "".join(c if c.isprintable() else " " for c in line).strip())]

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and to all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # they have ended
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Kills the process and all that it started unless it has ended, and closes its streams."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()
        self._reader.join(_PATIENCE_S)
        with contextlib.suppress(OSError):
            self.stdin.close()
        assert self.process.stdout is not None
        if not self._reader.is_alive():  # something that left the process group could keep it waiting
            self.process.stdout.close()
        self._stderr.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while line := self.process.stdout.readline(_LONGEST_LINE):
                self._lines.put(line)
        self._lines.put(None)


class Worker(AbstractContextManager["Worker"]):
    """Runs jobs in a process that calls ``runtime.worker.child.serve``, one after another.

    The process starts with the first job. One that crashes or hangs is replaced at the next job. It ends with this
    process; on Linux also with the thread that started it.

    Args:
        command: of the process, such as ``python_module(name)``.
        silence_s: a job without a message, and without a turn where ``turns`` is set, for so long is killed, s.
        turns: whether jobs name the file in use through shared memory.
        env: variables to set for the process; ``PYTHONPATH`` is prefixed by the folder of our packages.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        silence_s: float = SILENCE_S,
        turns: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.silence_s = silence_s
        self._command, self._env = command, env or {}
        self._child: MessageProcess | None = None
        self._turns = _SharedTurn() if turns else None

    def __exit__(self, *raised: object) -> None:
        """Ends the process."""
        self.close()

    def close(self) -> None:
        """Ends the process if there is one."""
        self._stop()
        if self._turns is not None:
            self._turns.close()

    def start(self) -> MessageProcess:
        """Starts the process unless it runs, and returns it.

        Raises:
            OSError: it cannot be started.
        """
        if self._child is None or self._child.process.poll() is not None:
            self._stop()
            self._child = MessageProcess(self._command, self._environment())
        return self._child

    @property
    def turn(self) -> int | None:
        """Number of the file in use; none when no file is."""
        number: int = NO_TURN if self._turns is None else TURN.unpack(self._turns.map[:])[0]
        return None if number == NO_TURN else number

    def run(self, job: str, request: Mapping[str, Any], progress: Progress = silent) -> JobResult:
        """Runs a job and returns its outcome; its own errors are part of that.

        An exception raised here meanwhile, such as a ``KeyboardInterrupt``, kills the process.

        Args:
            job: its name.
            request: its arguments, as JSON values.
            progress: called with the progress that the job reports.

        Raises:
            WorkerError: the process crashed or hung.
            OSError: the process cannot be started.
        """
        child = self.start()
        message: dict[str, Any] = {"job": job, "parent": os.getpid(), "request": request}
        if self._turns is None:
            message["alarm_s"] = 1.5 * self.silence_s + 5  # should this process no longer be there to kill it
        else:
            message["turns"] = self._turns.path
            TURN.pack_into(self._turns.map, 0, NO_TURN, 0)
        try:
            with contextlib.suppress(OSError):  # a process that died at once; its end is noticed below
                child.stdin.write(json.dumps(message).encode() + b"\n")
                child.stdin.flush()
            answer = self._listen(child, progress)
        except BaseException:
            self._stop()
            raise
        if "result" in answer:
            return JobResult(answer["result"])
        return JobResult(error=carried_error(answer), turn=self.turn)

    def stderr_lines(self) -> list[str]:
        """Returns beginning and end of what the running process wrote to stderr; see ``WorkerError.lines``."""
        return [] if self._child is None else self._child.stderr_lines()

    def _listen(self, child: MessageProcess, progress: Progress) -> dict[str, Any]:
        """Returns the message that ends the job."""
        doing: tuple[str, str] | None = None
        until, seen = time.monotonic() + self.silence_s, b""
        while True:
            try:
                message = child.read(min(_LOOK_EVERY_S, self.silence_s / 4))
            except queue.Empty:
                if self._turns is not None and self._turns.map[:] != seen:
                    seen, until = self._turns.map[:], time.monotonic() + self.silence_s
                if time.monotonic() > until:
                    raise WorkerError(True, None, child.stderr_lines(), doing) from None
                continue
            match message:
                case None:
                    status = None
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = child.process.wait(_PATIENCE_S)
                    raise WorkerError(False, status, child.stderr_lines(), doing)
                case {"result": _} | {"error": str()}:
                    return message
                case {"progress": [str(stage), int(done), int(total), str(note)]}:
                    progress(stage, done, total, note)
                case {"doing": [str(who), str(what)]}:
                    doing = who, what
                case _:
                    continue
            until = time.monotonic() + self.silence_s

    def _environment(self) -> dict[str, str]:
        packages = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": paths, **self._env}

    def _stop(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGKILL)  # also what a process that has ended left behind
            self._child.close()
            self._child = None


class _SharedTurn:
    """The file through which a worker passes the number of the model file in use."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile()
        self._file.write(TURN.pack(NO_TURN, 0))
        self._file.flush()
        self.path = self._file.name
        self.map = mmap.mmap(self._file.fileno(), TURN.size)

    def close(self) -> None:
        self.map.close()
        self._file.close()
