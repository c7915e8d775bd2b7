"""A talk with the supervisor on a device: what it is, what it is sent, and what it answers; and an end in any case."""

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
"""Where ``--bootstrap`` puts a Python of its own."""

CONNECT_S = 60.0
"""So long may a device take until it answers at all."""

LOST_S = 60
"""A device that has not heard of this machine for so long, s, ends what it does."""

_BEAT_S = 5.0
_PATIENCE_S = 10.0
_CHUNK = 1 << 16
_LOOK_EVERY_S = 0.2
_FIRST = "import sys;exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"


@dataclass(frozen=True)
class Survey:
    """What a device's supervisor says of it before anything is sent.

    Attributes:
        python: version.
        machine: architecture, such as ``aarch64``.
        system: kernel, such as ``Linux``.
        libc: name and version.
        versions: of numpy and the engines that are installed.
        venv: whether that Python is of a virtual environment.
        folder: made for this talk.
        free_bytes: on its file system.
        emulated: whether the device is an emulated one.
        vcgencmd: whether a Raspberry Pi's own tool is there.
        raspberry: whether it is one.
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
class Parcel:
    """One file to send.

    Attributes:
        path: folders and name below the talk's folder.
        content: the bytes, or the file that has them.
        unpack: it is a zip file, to be unpacked where it lies.
    """

    path: tuple[str, ...]
    content: bytes | Path
    unpack: bool = False


@dataclass(frozen=True)
class Order:
    """What the device is to do.

    Attributes:
        parcels: files to send.
        argv: arguments of the device's Python.
        packages: folder below the talk's folder from which it imports.
        request: what the program reads on its standard input.
        silence_s: the program gives a sign at least so often, s.
    """

    parcels: tuple[Parcel, ...]
    argv: tuple[str, ...]
    packages: str
    request: dict[str, Any]
    silence_s: float


def converse(
    link: Link,
    python: str,
    plan: Callable[[Survey], Order | None],
    progress: Progress = silent,
    *,
    stop: threading.Event | None = None,
    connect_s: float = CONNECT_S,
) -> Any:
    """Starts a supervisor over ``link``, has it do what ``plan`` makes of its survey, and returns the program's result.

    Whatever happens here, an exception included, the supervisor's standard input is closed, upon which it ends what
    runs on the device and removes its folder.

    Args:
        link: to the device.
        python: that runs there, unless ``--bootstrap`` made one.
        plan: returns what to do, or None to do nothing; it may raise.
        progress: told what the program tells, and of bytes sent.
        stop: when set, the talk ends.
        connect_s: until the first answer.

    Returns:
        The program's result as JSON values; None where there was nothing to do.

    Raises:
        MeasurementError: the device cannot be reached, is not fit for it, fell silent, or was stopped.
        PocketVitError: whatever the program answers.
    """
    try:
        process = MessageProcess(link.argv(command_line(python)))
    except OSError as error:
        raise MeasurementError(f"The program that reaches {link.label} cannot be run", got=error.strerror) from None
    talk = _Talk(link, process, progress, stop or threading.Event())
    try:
        return talk.hold(plan, connect_s)
    finally:
        talk.end()


def command_line(python: str) -> str:
    """Returns the line of shell that runs the supervisor's first words with the device's Python, whatever the shell."""
    script = f'P="{VENV}"; [ -x "$P" ] || P={shlex.quote(python)}; exec "$P" -c "{_FIRST}"'
    return f"exec sh -c {shlex.quote(script)}"


class _Talk:
    def __init__(self, link: Link, process: MessageProcess, progress: Progress, stop: threading.Event) -> None:
        self._link, self._process, self._progress, self._stop = link, process, progress, stop
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._moved = time.monotonic()
        self._met = False
        self._threads: list[threading.Thread] = []
        self._start(self._beat)

    def hold(self, plan: Callable[[Survey], Order | None], connect_s: float) -> Any:
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
        """Closes the device's input, gives it time to clear up, and ends the program here if it does not."""
        self._over.set()
        # a writer may be stuck in a full pipe and hold the file: the descriptor is closed below by the program's end
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

    def _send(self, pieces: Sequence[bytes | Parcel]) -> None:
        """Writes in a thread, so that what the device says meanwhile is heard."""
        self._start(self._write, pieces)

    def _next(self, seconds: float, what: str) -> dict[str, Any]:
        """Returns the next answer that is one."""
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
        """Returns what a refusal or an early end means."""
        label = self._link.label
        if "refused" in answer:
            return _refused(label, answer["refused"])
        ended = answer.get("ended") or {}
        lines = str(ended.get("said", "")).strip().splitlines() or ["no message"]
        return MeasurementError(
            f"The program on {label} ended with status {ended.get('status')} and no result", got=lines[-1][:300]
        )

    def _ended(self) -> PocketVitError:
        """Returns what it means that the program here ended without an answer."""
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

    def _write(self, pieces: Sequence[bytes | Parcel]) -> None:
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


def _pieces(order: Order) -> list[bytes | Parcel]:
    files = [
        {
            "path": parcel.path,
            "bytes": _size(parcel),
            "sha256": _sha256(parcel),
            "unpack": parcel.unpack,
        }
        for parcel in order.parcels
    ]
    head = {"files": files, "argv": order.argv, "packages": order.packages, "stdin": order.request}
    return [_line(encode(head)), *order.parcels]


def _size(parcel: Parcel) -> int:
    return len(parcel.content) if isinstance(parcel.content, bytes) else parcel.content.stat().st_size


def _sha256(parcel: Parcel) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(parcel):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(piece: bytes | Parcel) -> Any:
    content = piece.content if isinstance(piece, Parcel) else piece
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
    return MeasurementError(f"{label} cannot write {why.get('folder')}", got=why.get("said"))
