"""Starts commands in processes that have the large libraries loaded, forked from one that loaded them.

A fresh interpreter takes several seconds to import torch and timm. A forked process takes none, and it is a process
like any other: it has its own memory, working folder and environment, and it can be killed. PocketViT itself is
imported anew in each.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

LIBRARIES = (
    *("torch", "torch.utils.data", "timm", "safetensors.torch", "sklearn.datasets", "PIL.Image", "scipy.optimize"),
    *("onnx", "onnxruntime", "ai_edge_litert.interpreter", "matplotlib.figure", "jinja2", "cyclopts", "rich.console"),
)


class Process:
    """A command at work, with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, pid: int, stdout: IO[str], stderr: IO[str], line: socket.socket) -> None:
        self.pid, self.stdout, self.stderr, self._line = pid, stdout, stderr, line
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while the command runs."""
        return self._ended(0)

    def send_signal(self, number: int) -> None:
        """Sends a signal to the command unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the command."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Reads what is left of both streams and waits for the end.

        Raises:
            subprocess.TimeoutExpired: the command still runs after ``timeout`` seconds; it is killed.
        """
        texts = {}

        def read(name: str, stream: IO[str]) -> None:
            with stream:
                texts[name] = stream.read()

        readers = [threading.Thread(target=read, args=own) for own in (("out", self.stdout), ("err", self.stderr))]
        for reader in readers:
            reader.start()
        late = self._ended(timeout) is None
        if late:
            self.kill()
            self._ended(60)
        for reader in readers:
            reader.join()
        if late:
            raise subprocess.TimeoutExpired(str(self.pid), timeout, texts["out"], texts["err"])
        return texts["out"], texts["err"]

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._line], [], [], timeout)[0]:
            self.returncode = int(self._line.recv(64))
            self._line.close()
        return self.returncode


def start(*arguments: object, env: Mapping[str, str], cwd: Path | None = None) -> Process:
    """Starts ``pocketvit`` with ``arguments``."""
    asked = {"arguments": [*map(str, arguments)], "env": dict(env), "cwd": str(cwd or Path.cwd())}
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.connect(_address())
    (out, told_out), (err, told_err) = os.pipe(), os.pipe()
    socket.send_fds(line, [json.dumps(asked).encode()], [told_out, told_err])
    os.close(told_out)
    os.close(told_err)
    pid = int(line.recv(64))
    return Process(pid, os.fdopen(out, encoding="utf-8"), os.fdopen(err, encoding="utf-8"), line)


def run(
    *arguments: object, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Runs ``pocketvit`` with ``arguments`` to its end."""
    process = start(*arguments, env=env, cwd=cwd)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess([*map(str, arguments)], process.returncode or 0, out, err)


@cache
def _address() -> str:
    """Starts the process that loads the libraries, once, and returns the address of its socket."""
    folder = tempfile.TemporaryDirectory(prefix="preloaded-")
    address = f"{folder.name}/socket"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, __file__, address], text=True, **pipes)  # type: ignore[call-overload]

    def close() -> None:
        server.communicate("", timeout=60)
        folder.cleanup()

    atexit.register(close)
    assert server.stdout.readline() == "ready\n"
    return address


def _serve(address: str) -> None:
    """Forks a process for every request, until standard input is closed."""
    for library in LIBRARIES:
        importlib.import_module(library)
    # other threads of the libraries are idle, and none of them holds a lock
    warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)  # noqa: T201
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            line, _ = listener.accept()
            with line:
                if os.fork() == 0:
                    listener.close()
                    _attend(line)


def _attend(line: socket.socket) -> None:
    """Forks the command, tells its process, and waits to tell its exit code; in the command, returns never."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(line, 1 << 20, 2)
    pid = os.fork()
    if pid == 0:
        line.close()
        _become(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    line.send(str(pid).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):  # nobody waits any longer
        line.send(str(code).encode())
    os._exit(0)


def _become(asked: dict[str, object], streams: list[int]) -> None:
    """Runs the command as ``python -m pocketvit`` does, and ends."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((nothing, *streams)):
        os.dup2(stream, number)
        os.close(stream)
    # those of the first process remember what kind of file they were opened on
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    env, cwd, arguments = asked["env"], asked["cwd"], asked["arguments"]
    assert isinstance(env, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(str(cwd))
    own = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(cwd), *own, *(path for path in sys.path[1:] if path not in own)]
    sys.argv = ["pocketvit", *arguments]
    code: object = None
    try:
        runpy.run_module("pocketvit", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # destructors of the libraries would wait for threads that exist in the first process alone
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve(sys.argv[1])
