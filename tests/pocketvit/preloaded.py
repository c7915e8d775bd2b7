"""Starts commands in processes that have the large libraries loaded, forked from one that loaded them.

A fresh interpreter takes several seconds to import torch and timm. A forked process takes none, and it is a process
like any other: it has its own memory, working folder and environment, and it can be killed. PocketViT itself is loaded
too, and nothing of it was called; where plug-ins or another path are asked for, it is imported anew.

What such a command starts as ``python -m`` of a module of ``FORKED`` is forked from the command in the same way: it is
the command's child, and its words and its environment stand in ``/proc`` as those of any process. So is what it starts
to measure a file; this goes by what the command has imported.

Commands measure for less time than they would: a file is started once, and the machine's peaks are of three runs.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import IO, Any

LIBRARIES = (
    *("torch", "torch.utils.data", "timm", "safetensors.torch", "sklearn.datasets", "PIL.Image", "scipy.optimize"),
    *("onnx", "onnxruntime", "ai_edge_litert.interpreter", "matplotlib.figure", "jinja2", "cyclopts", "rich.console"),
    "torch.distributed.run",
)

FORKED = ("pocketvit", "pocketvit.cli.study_child")
"""Modules that are forked from the command that starts them; none of these commands computes with torch itself."""

MEASURING = "device_bench.worker.child"
"""The module that measures files; it is forked from the command too, and needs none of the command's threads."""

COMMAND = "import runpy; runpy.run_module('pocketvit', run_name='__main__', alter_sys=True)"

TORCHRUN = "from torch.distributed.run import main; main()"

_COMMANDS = ("app", "bench", "compress", "export", "report", "run", "study")

_MEASURES = ("device_bench.targets.cpu", "device_bench.metrics.jobs", MEASURING)

_ROOT = str(Path(__file__).resolve().parents[2])

_OURS = frozenset({"runtime", "compress", "export", "device_bench", "pocketvit"})

_ROOM = 1 << 13
"""Bytes that are kept free for the words of a forked process, and as many for its environment."""


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

    def wait(self, timeout: float = 60) -> int:
        """Waits for the end, and returns the exit code."""
        assert self._ended(timeout) is not None
        return self._ended(0) or 0

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


def start(*arguments: object, env: Mapping[str, str], cwd: Path | None = None, program: str = COMMAND) -> Process:
    """Starts ``pocketvit``, or the Python code ``program``, with ``arguments``."""
    asked = {"arguments": [*map(str, arguments)], "env": dict(env), "cwd": str(cwd or Path.cwd()), "program": program}
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.connect(_address())
    (out, told_out), (err, told_err) = os.pipe(), os.pipe()
    socket.send_fds(line, [json.dumps(asked).encode()], [told_out, told_err])
    os.close(told_out)
    os.close(told_err)
    pid = int(line.recv(64))
    return Process(pid, os.fdopen(out, encoding="utf-8"), os.fdopen(err, encoding="utf-8"), line)


def run(
    *arguments: object, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 600, program: str = COMMAND
) -> subprocess.CompletedProcess[str]:
    """Runs ``pocketvit``, or the Python code ``program``, with ``arguments`` to its end."""
    process = start(*arguments, env=env, cwd=cwd, program=program)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess([*map(str, arguments)], process.returncode or 0, out, err)


@cache
def _address() -> str:
    """Starts the process that loads the libraries, once, and returns the address of its socket."""
    folder = tempfile.TemporaryDirectory(prefix="preloaded-")
    address = f"{folder.name}/socket"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # torch reads the level of its log when it is loaded, so that a command comes too late to set it
    env = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "ROOM": "-" * _ROOM}
    words = [sys.executable, __file__, address, "-" * _ROOM]
    server = subprocess.Popen(words, text=True, env=env, **pipes)  # type: ignore[call-overload]

    def close() -> None:
        server.stdin.close()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()
        folder.cleanup()

    atexit.register(close)
    assert server.stdout.readline() == "ready\n"
    return address


def _serve(address: str) -> None:
    """Forks a process for every request, until standard input is closed."""
    sys.path[0] = _ROOT
    _keep_code()
    for library in (*LIBRARIES, "pocketvit.pipeline.run", *(f"pocketvit.cli.{name}" for name in _COMMANDS), *_MEASURES):
        importlib.import_module(library)
    # the forked processes need not look through these again and again for what can be freed
    gc.collect()
    gc.freeze()
    # other threads of the libraries are idle, and none of them holds a lock
    warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
    # waited for, so that the seconds of the commands count among those of the tests
    signal.signal(signal.SIGCHLD, _reap)
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
    # the libraries would take their time to go
    os._exit(0)


def _keep_code() -> None:
    """Has a module of ours that is imported anew from the same file compiled no second time."""
    usual, codes = SourceFileLoader.get_code, dict[str, CodeType | None]()

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        if name.split(".")[0] not in _OURS:
            return usual(loader, name)
        if loader.path not in codes:
            codes[loader.path] = usual(loader, name)
        return codes[loader.path]

    SourceFileLoader.get_code = get_code  # type: ignore[assignment]


def _measure_shortly() -> None:
    """Has each file started once, and three runs of each model for the machine's peaks."""
    from device_bench.metrics.peaks import measure_peaks
    from device_bench.targets import cpu

    vars(cpu)["REPEATS"] = 1
    assert measure_peaks.__kwdefaults__ is not None
    measure_peaks.__kwdefaults__["seconds"] = 0.0


def _reap(*_: object) -> None:
    """Waits for the processes that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


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


def _become(asked: dict[str, Any], streams: list[int]) -> None:
    """Runs a command as a fresh interpreter does, and ends."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((nothing, *streams)):
        os.dup2(stream, number)
        os.close(stream)
    subprocess._fork_exec = partial(_fork_exec, subprocess._fork_exec)  # type: ignore[attr-defined]
    # a program of its own may change what can be imported
    is_command = asked["program"] == COMMAND
    if not is_command or not _is_as_loaded(asked["env"]):
        _forget_ours()
    sys.argv = ["pocketvit", *asked["arguments"]]

    def do() -> None:
        if is_command:
            _measure_shortly()
        exec(asked["program"], {"__name__": "__main__"})

    _run(do, asked["env"], asked["cwd"])


def _fork_exec(usual: Callable[..., int], *how: Any) -> int:
    """Stands in for ``subprocess``'s own function of this name, whose first arguments have long been these."""
    words = [os.fsdecode(word) for word in how[0]]
    _, _, _, _, cwd, env, stdin, _, _, stdout, _, stderr, _, _, _, new_session, *_ = how
    module = words[words.index("-m") + 1] if "-m" in words[:3] else ""
    if module not in (*FORKED, MEASURING):
        return usual(*how)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    for number, stream in enumerate((stdin, stdout, stderr)):
        if stream != -1:
            os.dup2(stream, number)
    os.closerange(3, 1 + max(int(place.name) for place in Path("/proc/self/fd").iterdir()))
    if new_session:
        os.setsid()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()
    if module in FORKED:
        _forget_ours()
    own = dict(os.environ) if env is None else dict(os.fsdecode(item).split("=", 1) for item in env)
    sys.argv = words[words.index("-m") + 1 :]
    _run(_measure if module == MEASURING else lambda: _as_main(module), own, os.fsdecode(cwd or Path.cwd()), words)
    return 0


def _is_as_loaded(env: Mapping[str, str]) -> bool:
    """Whether an interpreter in this environment would import what is loaded: this checkout, and no plug-ins."""
    plugins = env.get("POCKETVIT_PLUGINS", "").split(",")
    first = env.get("PYTHONPATH", "").split(os.pathsep)[0]
    return first == _ROOT and all(name in sys.stdlib_module_names for name in plugins if name)


def _forget_ours() -> None:
    """Has PocketViT imported anew."""
    for name in [name for name in sys.modules if name.split(".")[0] in _OURS]:
        del sys.modules[name]


def _measure() -> None:
    sys.exit(importlib.import_module(MEASURING).main())


def _as_main(module: str) -> None:
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run(what: Callable[[], None], env: Mapping[str, str], cwd: str, words: Sequence[str] = ()) -> None:
    """Runs ``what`` with streams, environment and working folder of its own, shows ``words`` as its own, and ends."""
    # those of the first process remember what kind of file they were opened on
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if words:
        _show(words, env)
    own = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [cwd, *own, *(path for path in sys.path[1:] if path not in own)]
    code: object = None
    try:
        what()
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


def _show(words: Sequence[str], env: Mapping[str, str]) -> None:
    """Writes words and environment where ``/proc`` reads those that a process was started with."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ends = [int(field) for field in fields[45:49]]
    texts = ["\0".join(words), "\0".join(f"{key}={value}" for key, value in env.items())]
    for text, start, end in zip(texts, ends[::2], ends[1::2], strict=True):
        ctypes.memmove(start, os.fsencode(text)[: end - start - 1].ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    _serve(sys.argv[1])
