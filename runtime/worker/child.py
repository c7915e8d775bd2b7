"""The child's side of a worker process: it reads jobs from stdin and writes messages to stdout."""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

from runtime.errors import PocketVitError
from runtime.registry import imported
from runtime.storage.codec import encode

from .messages import error_message

TURN = struct.Struct("<qq")
"""The layout of the shared file of a worker: the number of the model file in use, and a count of the turns."""

NO_TURN = -1
"""The number that stands for no file."""

_PROGRESS_EVERY_S = 0.1
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 1.0

TakeTurn = Callable[[int], None]
JobFunction = Callable[..., Any]
"""A function of a ``Reporter`` and the arguments of a request."""


def _no_turn(number: int) -> None:
    pass


class Reporter:
    """Sends the messages of one worker process to its parent.

    Args:
        stream: where the messages go.
        clock: a monotonic clock, s.

    Attributes:
        turn: call ``turn(number)`` when the file of that number is about to run. The call takes about 1 µs, since it
            writes to shared memory; the parent reads the number when the process crashes or hangs.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.turn: TakeTurn = _no_turn
        self._stream, self._clock = stream, clock
        self._stage, self._at = "", 0.0
        self._alarm_s = 0.0

    def begin(self, turns: str | None, alarm_s: float) -> None:
        """Prepares for the next job.

        Args:
            turns: path of the shared file; none for a parent that looks at messages alone.
            alarm_s: the process ends itself after so long without a message, s; 0 for never.
        """
        self.turn = _no_turn if turns is None else shared_turn(turns)
        self._stage, self._alarm_s = "", alarm_s
        self._set_alarm()

    def send(self, message: dict[str, Any]) -> None:
        """Writes a message."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()
        self._set_alarm()

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Reports progress, at most ten times a second: the reader needs a processor core as well.

        The first and the last message of a stage are always sent.
        """
        now = self._clock()
        if stage == self._stage and done < total and now - self._at < _PROGRESS_EVERY_S:
            return
        self._stage, self._at = stage, now
        self.send({"progress": [stage, done, total, note]})

    def doing(self, who: str, what: str) -> None:
        """Names the library that works now, for the error text if the process crashes or hangs."""
        self.send({"doing": [who, what]})

    def _set_alarm(self) -> None:
        # the kernel delivers it even while native code holds the interpreter
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self._alarm_s)


def serve(
    jobs: Mapping[str, JobFunction | str], translate: Callable[[Exception, dict[str, Any]], Exception] | None = None
) -> int:
    """Runs the jobs that the parent requests on stdin, one JSON line each, until stdin ends; returns 0.

    A job is called with a ``Reporter`` and the arguments of its request. Standard output is reserved for messages;
    whatever else is printed goes to stderr.

    Args:
        jobs: functions by name; a text ``module:function`` is imported when the job is requested.
        translate: turns any exception of a job, with the arguments of its request, into the one that is handled. A
            ``PocketVitError`` is sent to the parent; another exception ends the process.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    limit("RLIMIT_CORE", 0)
    end_with_parent()
    reporter = Reporter(stream)
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("parent", os.getppid()) != os.getppid():
            _end()
        reporter.begin(request.get("turns"), request.get("alarm_s", 0.0))
        arguments = request["request"]
        try:
            job = jobs[request["job"]]
            function: JobFunction = imported(job) if isinstance(job, str) else job
            answer = {"result": encode(function(reporter, **arguments))}
        except Exception as error:
            failure = error if translate is None else translate(error, arguments)
            if not isinstance(failure, PocketVitError):
                raise
            answer = error_message(failure)
        reporter.send(answer)
        reporter.begin(None, 0.0)
    return 0


def shared_turn(path: str) -> TakeTurn:
    """Returns a function that passes the number of the file in use to the parent through shared memory (about 1 µs).

    Args:
        path: of the file that the parent has mapped, with the layout ``TURN``.
    """
    with Path(path).open("r+b") as file:
        shared = mmap.mmap(file.fileno(), TURN.size)
    count = 0

    def turn(number: int) -> None:
        nonlocal count
        count += 1
        TURN.pack_into(shared, 0, number, count)

    return turn


def limit(name: str, value: int) -> None:
    """Lowers a resource limit of this process, such as ``RLIMIT_AS`` in bytes, where the system has it."""
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def end_with_parent(parent: int | None = None) -> None:
    """Makes this process end when its parent ends, even by SIGKILL.

    On Linux the kernel kills it when the parent's thread that started it ends. Elsewhere a thread of this process
    looks for the parent once a second.

    Args:
        parent: id of the process that started this one; by default the present parent.
    """
    parent = parent or os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was asked
            _end()
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    _end()


def _end() -> NoReturn:
    os._exit(1)
