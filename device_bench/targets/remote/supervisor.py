"""Runs in the Python of a device: receives files, runs a program on them, and leaves nothing behind.

It is sent as text and imports the standard library alone. It first writes the message ``{"device": ...}``. Then it
reads an order, a line of JSON, and the bytes of the files that the order names. It passes on the messages of the
program and ends with ``{"ended": ...}``; or it writes ``{"refused": ...}``. The host keeps sending empty lines. When
they end or stop coming, the program and all that it started are killed and the folder is removed, so that a cut link
does not leave a device busy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from importlib import metadata, util
from pathlib import Path
from typing import IO, Any

OLDEST_PYTHON = (3, 11)
MODULES = {"numpy": "numpy", "ai-edge-litert": "ai_edge_litert", "onnxruntime": "onnxruntime", "torch": "torch"}
"""Packages that a program may use, and the module by which each is found."""

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
_CHUNK = 1 << 16
_KEPT = 4000
_LOST_S = 60
"""The default time without a byte from the host after which the supervisor ends, s."""


class RefusalError(Exception):
    """The device cannot carry out an order.

    Args:
        kind: ``space``, ``write``, ``damaged`` or ``python``.
        figures: values for the error text on the host.
    """

    def __init__(self, kind: str, **figures: Any) -> None:
        super().__init__(kind)
        self.answer = {"kind": kind, **figures}


class HostGoneError(Exception):
    """The host closed the connection or is silent."""


def main() -> int:
    """Carries out one order and returns the exit status."""
    for number in _SIGNALS:
        signal.signal(number, _end)
    source, messages = sys.stdin.buffer, Messages(os.dup(1))
    os.dup2(2, 1)
    try:
        first = next_line(source)
        watchdog.lost_s = first["lost_s"]
        with Folder(Path(first["root"]).expanduser()) as folder:
            messages.send({"device": survey(folder.path)})
            order = next_line(source)
            receive(source, order["files"], folder.path)
            messages.send({"ended": run(order, folder.path, source, messages)})
    except RefusalError as error:
        messages.send({"refused": error.answer})
        return 1
    except (HostGoneError, BrokenPipeError, ValueError):
        return 1
    return 0


class Watchdog:
    """Ends this process by SIGALRM when the host is silent for ``lost_s`` seconds."""

    lost_s = _LOST_S

    def __call__(self) -> None:
        """Starts the time again."""
        signal.alarm(self.lost_s)


watchdog = Watchdog()


def next_line(source: IO[bytes]) -> dict[str, Any]:
    """Returns the next line of JSON.

    Raises:
        HostGoneError: there is none.
    """
    while True:
        watchdog()
        line = source.readline()
        if not line:
            raise HostGoneError
        if line.strip():
            found: dict[str, Any] = json.loads(line)
            return found


class Messages:
    """Writes whole lines of JSON to the host, from any thread."""

    def __init__(self, stream: int) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Writes one message."""
        self.pass_on(json.dumps(message).encode() + b"\n")

    def pass_on(self, line: bytes) -> None:
        """Writes a line of the program as it is."""
        with self._lock:
            while line:
                line = line[os.write(self._stream, line) :]


class Folder:
    """A fresh folder of one supervisor, locked while it runs, so that later ones can find folders left behind."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, Path()
        self._lock: IO[str] | None = None
        self._made = [path for path in (root, root.parent) if not path.exists()]

    def __enter__(self) -> Folder:
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            self.path = Path(tempfile.mkdtemp(prefix="new-", dir=self.root))
            self._lock = (self.path / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            # a folder of this name is always locked
            self.path = self.path.rename(self.path.with_name(f"run-{self.path.name[4:]}"))
        except OSError as error:
            self.__exit__()
            raise refusal(error, self.root, 0) from error
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self.path.name:
            remove(self.path)
        if self._lock is not None:
            self._lock.close()
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir()

    def _sweep(self) -> None:
        """Removes folders whose supervisor was killed."""
        # a folder that is locked, or vanishes meanwhile, is skipped
        for path in self.root.glob("run-*"):
            with contextlib.suppress(OSError), (path / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path)
        for path in self.root.glob("new-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LOST_S:
                    remove(path)


def remove(path: Path) -> None:
    """Removes a folder, again if a dying program still writes into it."""
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.05)


def survey(folder: Path) -> dict[str, Any]:
    """Returns the description of the device that the host gets before it sends anything."""
    versions = {}
    for package, module in MODULES.items():
        with contextlib.suppress(ImportError, ValueError):
            if util.find_spec(module) is not None:
                versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "libc": " ".join(platform.libc_ver()),
        "versions": versions,
        "venv": sys.prefix != sys.base_prefix,
        "folder": str(folder),
        "free_bytes": shutil.disk_usage(folder).free,
        "emulated": Path("/etc/pocketvit-emulated").exists(),
        "vcgencmd": shutil.which("vcgencmd") is not None,
        "raspberry": "raspberry" in _text("/proc/device-tree/model").lower(),
    }


def receive(source: IO[bytes], files: list[dict[str, Any]], folder: Path) -> None:
    """Reads files into their places below ``folder``; no shell sees their names.

    Raises:
        RefusalError: there is no space for them, or one arrived damaged.
        HostGoneError: the host is gone.
    """
    needed = sum(file["bytes"] for file in files)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RefusalError("space", folder=str(folder), needed=needed, free=free)
    for file in files:
        path = folder.joinpath(*file["path"])
        try:
            digest = _receive(source, path, file["bytes"])
            if digest != file["sha256"]:
                raise RefusalError("damaged", file=path.name)
            if file["unpack"]:
                with zipfile.ZipFile(path) as packed:
                    packed.extractall(path.parent)
                path.unlink()
        except OSError as error:
            raise refusal(error, path, needed) from error


def refusal(error: OSError, path: Path, needed: int) -> RefusalError:
    """Returns the refusal for an error of writing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RefusalError("space", folder=str(path.parent), needed=needed, free=shutil.disk_usage("/").free)
    return RefusalError("write", folder=str(path), reason=error.strerror or str(error))


def run(order: dict[str, Any], folder: Path, source: IO[bytes], messages: Messages) -> dict[str, Any]:
    """Runs the program of ``order`` and passes its lines on; returns its status and the end of its stderr.

    Raises:
        RefusalError: this Python is too old for the program.
        HostGoneError: the host is gone.
    """
    if sys.version_info < OLDEST_PYTHON:
        raise RefusalError("python", got=platform.python_version(), oldest=".".join(map(str, OLDEST_PYTHON)))
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / order["packages"]),
        "XDG_CACHE_HOME": str(folder / "cache"),  # engines keep things there
    }
    with tempfile.TemporaryFile(dir=folder) as errors:
        child = subprocess.Popen(
            [sys.executable, *order["argv"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=folder,
            env=environment, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            text = json.dumps(order["stdin"]).encode()
            relay = threading.Thread(target=_relay, args=(child, text, messages), daemon=True)
            relay.start()
            _wait(relay, source)
            status = child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _KEPT))
        return {"status": status, "stderr": errors.read().decode("utf-8", "replace")}


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent ends, even by SIGKILL."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _receive(source: IO[bytes], path: Path, size: int) -> str:
    digest, left = hashlib.sha256(), size
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        while left:
            watchdog()
            piece = source.read(min(_CHUNK, left))
            if not piece:
                raise HostGoneError
            digest.update(piece)
            target.write(piece)
            left -= len(piece)
    return digest.hexdigest()


def _relay(child: subprocess.Popen[bytes], text: bytes, messages: Messages) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(text)
        child.stdin.close()
    # without a reader, standard input ends as well, which ends the program
    with contextlib.suppress(OSError):
        for line in child.stdout:
            messages.pass_on(line if line.endswith(b"\n") else line + b"\n")


def _wait(relay: threading.Thread, source: IO[bytes]) -> None:
    """Waits until the program has closed its output."""
    while relay.is_alive():
        readable, _, _ = select.select([source], [], [], 0.1)
        if readable:
            watchdog()
            if not os.read(source.fileno(), _CHUNK):
                raise HostGoneError


def _end(number: int, _: object) -> None:
    raise HostGoneError


if __name__ == "__main__":
    sys.exit(main())
