"""Runs a program on a device through the supervisor there, and leaves nothing running whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_bench.targets.link import Link
from runtime import MeasurementError, PocketVitError, Progress, decode, encode, silent
from runtime.worker.messages import carried_error
from runtime.worker.parent import MessageProcess

from . import supervisor

ROOT = "~/.cache/pocketvit"
VENV = "$HOME/.cache/pocketvit/venv/bin/python"
"""The Python of the virtual environment that ``--bootstrap`` makes; a device that has it uses it."""

CONNECT_S = 60.0
"""The default time until a device must have answered, s."""

LOST_S = 60
"""The supervisor ends the program after this time without a byte from this machine, s."""

_BEAT_S = 5.0
_PATIENCE_S = 10.0
_CHUNK = 1 << 16
_LOOK_EVERY_S = 0.2
_FIRST = "import sys;exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"


@dataclass(frozen=True)
class Survey:
    """The supervisor's description of a device, which comes before anything is sent.

    Attributes:
        python: version of Python.
        machine: architecture, such as ``aarch64``.
        system: kernel, such as ``Linux``.
        libc: name and version of the C library.
        versions: versions of numpy and the engines that are installed.
        venv: whether that Python belongs to a virtual environment.
        folder: folder made for this connection, removed at its end.
        free_bytes: free space on the file system of ``folder``.
        emulated: whether the device is an emulated one.
        vcgencmd: whether the Raspberry Pi's tool ``vcgencmd`` is installed.
        raspberry: whether the device is a Raspberry Pi.
    """

    python: str
    machine: str
    system: str
    libc: str
    versions: dict[str, str]
    venv: bool
    folder: str
    free_bytes: int
    emulated: bool
    vcgencmd: bool
    raspberry: bool


@dataclass(frozen=True)
class Upload:
    """One file to send.

    Attributes:
        path: folders and name below the connection's folder.
        content: the bytes, or the file that holds them.
        unpack: whether the device unpacks it as a zip file.
    """

    path: tuple[str, ...]
    content: bytes | Path
    unpack: bool = False


@dataclass(frozen=True)
class Order:
    """A program for the device to run.

    Attributes:
        uploads: files to send first.
        argv: arguments of the device's Python.
        packages: folder below the connection's folder from which Python imports.
        request: JSON values that the program reads on its standard input.
        silence_s: the longest time between two messages of the program, s.
    """

    uploads: tuple[Upload, ...]
    argv: tuple[str, ...]
    packages: str
    request: dict[str, Any]
    silence_s: float


def run_on_device(
    link: Link,
    python: str,
    plan: Callable[[Survey], Order | None],
    progress: Progress = silent,
    *,
    stop: threading.Event | None = None,
    connect_s: float = CONNECT_S,
) -> Any:
    """Runs a program on a device and returns its result.

    At the end, also after an exception here, the supervisor's standard input is closed; it then kills the program and
    removes its folder.

    Args:
        link: the link to the device.
        python: the Python to run there, unless ``--bootstrap`` made one.
        plan: makes the order from the survey of the device, or returns None to run nothing; it may raise.
        progress: called with the progress of the program and with the bytes sent.
        stop: when set, the program is ended.
        connect_s: longest time until the first answer, s.

    Returns:
        The program's result as JSON values; None where nothing was run.

    Raises:
        MeasurementError: the device cannot be reached or used, fell silent, or was stopped.
        PocketVitError: the error of the program.
    """
    try:
        process = MessageProcess(link.argv(command_line(python)))
    except OSError as error:
        raise MeasurementError(f"The program that reaches {link.label} cannot be run", got=error.strerror) from None
    connection = _Connection(link, process, progress, stop or threading.Event())
    try:
        return connection.run(plan, connect_s)
    finally:
        connection.end()


def command_line(python: str) -> str:
    """Returns the shell command that reads a program's length and the program from stdin and runs it in Python."""
    script = f'P="{VENV}"; [ -x "$P" ] || P={shlex.quote(python)}; exec "$P" -c "{_FIRST}"'
    return f"exec sh -c {shlex.quote(script)}"


class _Connection:
    def __init__(self, link: Link, process: MessageProcess, progress: Progress, stop: threading.Event) -> None:
        self._link, self._process, self._progress, self._stop = link, process, progress, stop
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._moved = time.monotonic()
        self._met = False
        self._threads: list[threading.Thread] = []
        self._start(self._beat)

    def run(self, plan: Callable[[Survey], Order | None], connect_s: float) -> Any:
        program = Path(supervisor.__file__).read_bytes()
        hello = f"{len(program)}\n".encode() + program + _line({"root": ROOT, "lost_s": LOST_S})
        self._send([hello])
        answer = self._next(connect_s, "did not answer")
        if "device" not in answer:
            raise self._unexpected(answer)
        self._met = True
        order = plan(decode(Survey, answer["device"], f"what {self._link.label} says of itself"))
        if order is None:
            return None
        self._send(_pieces(order))
        while True:
            answer = self._next(order.silence_s, "gave no sign")
            if "progress" in answer:
                self._progress(*answer["progress"])
            elif "result" in answer:
                return answer["result"]
            elif "error" in answer:
                raise carried_error(answer)
            else:
                raise self._unexpected(answer)

    def end(self) -> None:
        """Closes the supervisor's input, waits until it has cleared up, and kills the program here if need be."""
        self._over.set()
        # a writer that is stuck in a full pipe holds the file until the program here ends
        if self._writing.acquire(timeout=0.5):
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._writing.release()
        else:
            self._process.signal(signal.SIGTERM)
        try:
            self._process.process.wait(_PATIENCE_S if self._met else 1.0)
        except subprocess.TimeoutExpired:
            self._process.signal(signal.SIGKILL)
            self._process.process.wait()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        self._process.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _send(self, pieces: Sequence[bytes | Upload]) -> None:
        """Writes in a thread, so that messages are read meanwhile."""
        self._start(self._write, pieces)

    def _next(self, seconds: float, what: str) -> dict[str, Any]:
        """Returns the next message of the device."""
        self._moved = time.monotonic()
        while True:
            if self._stop.is_set():
                raise MeasurementError(f"{self._link.label} was stopped")
            try:
                answer = self._process.read(_LOOK_EVERY_S)
            except queue.Empty:
                if time.monotonic() > self._moved + seconds:
                    raise MeasurementError(
                        f"{self._link.label} {what} for {seconds:g} s and was given up",
                        fix="See whether it is up and reachable, and try again; or give it longer with --timeout",
                    ) from None
                continue
            if answer is None:
                raise self._ended()
            if answer:
                return answer

    def _unexpected(self, answer: dict[str, Any]) -> PocketVitError:
        """Returns the error for a refusal or an early end."""
        label = self._link.label
        if "refused" in answer:
            return _refused(label, answer["refused"])
        ended = answer.get("ended") or {}
        lines = str(ended.get("stderr", "")).strip().splitlines() or ["no message"]
        return MeasurementError(
            f"The program on {label} ended with status {ended.get('status')} and no result", got=lines[-1][:300]
        )

    def _ended(self) -> PocketVitError:
        """Returns the error for a program here that ended before the result."""
        status = self._process.process.wait(_PATIENCE_S)
        lines = self._process.stderr_lines()
        known = self._link.explain(status, "\n".join(lines))
        if known is not None:
            return known
        last = lines[-1][:300] if lines else "no message"
        if status == 127 or "not found" in last:
            return MeasurementError(
                f"There is no Python 3 on {self._link.label} under that name",
                got=last,
                fix="Install it there (sudo apt install python3), or name it: python = … in targets.toml",
            )
        return MeasurementError(
            f"The link to {self._link.label} ended before there was an answer",
            got=f"status {status}, {last}",
            fix="See whether it is still up, and try again",
        )

    def _write(self, pieces: Sequence[bytes | Upload]) -> None:
        sizes = [len(piece) if isinstance(piece, bytes) else _size(piece) for piece in pieces]
        total, sent = sum(sizes), 0
        with self._writing, contextlib.suppress(OSError, ValueError):
            for piece in pieces:
                for chunk in _chunks(piece):
                    if self._over.is_set():
                        return
                    self._process.stdin.write(chunk)
                    self._process.stdin.flush()
                    sent += len(chunk)
                    self._moved = time.monotonic()
                    if len(pieces) > 1:
                        self._progress("send", sent, total)

    def _beat(self) -> None:
        while not self._over.wait(min(_BEAT_S, LOST_S / 4)):
            if self._writing.acquire(blocking=False):
                try:
                    self._process.stdin.write(b"\n")
                    self._process.stdin.flush()
                except (OSError, ValueError):
                    return
                finally:
                    self._writing.release()


def _pieces(order: Order) -> list[bytes | Upload]:
    files = [
        {
            "path": upload.path,
            "bytes": _size(upload),
            "sha256": _sha256(upload),
            "unpack": upload.unpack,
        }
        for upload in order.uploads
    ]
    head = {"files": files, "argv": order.argv, "packages": order.packages, "stdin": order.request}
    return [_line(encode(head)), *order.uploads]


def _size(upload: Upload) -> int:
    return len(upload.content) if isinstance(upload.content, bytes) else upload.content.stat().st_size


def _sha256(upload: Upload) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(upload):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(piece: bytes | Upload) -> Any:
    content = piece.content if isinstance(piece, Upload) else piece
    if isinstance(content, bytes):
        yield from (content[i : i + _CHUNK] for i in range(0, len(content), _CHUNK))
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _line(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _refused(label: str, why: dict[str, Any]) -> MeasurementError:
    kind = why.get("kind")
    if kind == "space":
        return MeasurementError(
            f"There is no space left on {label}",
            expected=f"{why['needed'] / 1e6:.1f} MB in {why['folder']}",
            got=f"{why['free'] / 1e6:.1f} MB",
            fix="Free some space there; nothing of the attempt was left behind",
        )
    if kind == "python":
        return MeasurementError(
            f"The Python on {label} is too old",
            expected=f"{why['oldest']} or newer",
            got=why["got"],
            fix="Install a newer one there, and name it: python = … in targets.toml",
        )
    if kind == "damaged":
        return MeasurementError(f"{why['file']} arrived damaged on {label}", fix="Try again")
    return MeasurementError(f"{label} cannot write {why.get('folder')}", got=why.get("reason"))
