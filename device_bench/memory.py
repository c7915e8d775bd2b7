"""Peak memory of one file, in a process of its own: ``python -m device_bench.memory FILE THREADS``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime import MeasurementError

from .figures import MemoryUse

RUNS = 3
TIMEOUT_S = 120.0


def measure_memory(
    file: Path, threads: int = 1, *, timeout_s: float = TIMEOUT_S, command: Sequence[str] | None = None
) -> MemoryUse:
    """Runs ``file`` a few times in a fresh process and returns what that took.

    A process that crashes, hangs or says nonsense gives null figures with the reason.

    Args:
        file: the ``.onnx`` or ``.tflite`` file.
        threads: of the engine, at least 1.
        timeout_s: after which the process is killed, s.
        command: what to run instead of this module.
    """
    # -P: a folder named like one of our packages, where the user stands, must not be imported in its stead.
    command = command or (sys.executable, "-P", "-m", __name__, str(file.resolve()), str(threads))
    packages = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{inherited}" if inherited else packages}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return MemoryUse(None, None, f"The process was stopped after {timeout_s:g} s without an answer")
    except OSError as error:
        return MemoryUse(None, None, f"The process could not be started: {error.strerror}")
    if done.returncode:
        return MemoryUse(None, None, _failure(done, file))
    return _parse(done.stdout)


def peak_rss_bytes(proc: Path = Path("/proc/self")) -> int:
    """Returns the most resident memory this process ever had, bytes.

    Linux's ``ru_maxrss`` outlives ``exec``, so a child of a big process would report the parent's peak;
    ``VmHWM`` starts anew and comes first.

    Args:
        proc: this process's folder in procfs.
    """
    from_proc = _status_bytes(proc, "VmHWM")
    return from_proc if from_proc is not None else _ru_maxrss_bytes()


def current_rss_bytes(proc: Path = Path("/proc/self")) -> int:
    """Returns the resident memory of this process now, bytes; its peak where there is no procfs.

    Args:
        proc: this process's folder in procfs.
    """
    from_proc = _status_bytes(proc, "VmRSS")
    return from_proc if from_proc is not None else _ru_maxrss_bytes()


def maxrss_to_bytes(maxrss: int, platform: str) -> int:
    """Returns ``ru_maxrss`` in bytes: macOS counts bytes, every other system kB.

    >>> maxrss_to_bytes(10, "linux"), maxrss_to_bytes(10, "darwin")
    (10240, 10)
    """
    return maxrss if platform == "darwin" else maxrss * 1024


def main(arguments: Sequence[str]) -> int:
    """Loads a file, runs it on zeros, and writes one JSON document of its memory to stdout.

    Args:
        arguments: the file and the number of threads.
    """
    import numpy as np

    from runtime import open_engine

    from .inputs import input_shape

    file, threads = Path(arguments[0]), int(arguments[1])
    before = current_rss_bytes()
    engine = open_engine(file, threads=threads)
    batch = np.zeros(input_shape(engine, file.name), engine.input_dtype)
    for _ in range(RUNS):
        engine.run(batch)
    document = {"peak_rss_bytes": peak_rss_bytes(), "rss_before_bytes": before}
    sys.stdout.write(json.dumps(document) + "\n")
    return 0


def _status_bytes(proc: Path, key: str) -> int | None:
    try:
        status = (proc / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{key}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _ru_maxrss_bytes() -> int:
    import resource

    return maxrss_to_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)


def _failure(done: subprocess.CompletedProcess[str], file: Path) -> str:
    if done.returncode < 0:
        try:
            how = signal.Signals(-done.returncode).name
        except ValueError:
            how = f"signal {-done.returncode}"
        return f"The process was killed by {how}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = lines[-1].strip() if lines else "no message"
    for path in (str(file.resolve()), str(file)):
        said = said.replace(path, file.name)
    return f"The process ended with status {done.returncode}: {said[:300]}"


def _parse(stdout: str) -> MemoryUse:
    lines = stdout.strip().splitlines()
    try:
        # Engines may greet on stdout; the document is the last line.
        document = json.loads(lines[-1])
        peak, before = document["peak_rss_bytes"], document["rss_before_bytes"]
        if type(peak) is not int or type(before) is not int:
            raise TypeError("not an integer")
        return MemoryUse(peak, before)
    except (IndexError, KeyError, TypeError, ValueError, MeasurementError):
        return MemoryUse(None, None, "The process did not answer with its memory")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
