"""A bench in a process of its own, so that what this one has loaded and allocated does not colour the times.

Beside the heap and the threads of a training framework, the same two files were measured 5 % apart that are 25 %
apart in a fresh process.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import runtime
from runtime import MeasurementError, Progress, decode, encode, silent

from .cpu import time_files
from .measure import Sampling
from .results import BenchResult
from .targets import bench


def bench_apart(
    files: Sequence[Path],
    target: str = "cpu",
    *,
    threads: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> BenchResult:
    """Does what ``bench`` does, in a fresh process.

    Raises:
        MeasurementError: the process died; and whatever ``bench`` raises.
    """
    request = {
        "files": [str(path.resolve()) for path in files],
        "target": target,
        "threads": threads,
        "sampling": encode(sampling or Sampling()),
        "seed": seed,
    }
    return decode(BenchResult, _ask("bench", request, progress), "the bench's result")


def time_apart(files: Sequence[Path], *, threads: int = 1, rounds: int = 12, percent: float = 25) -> tuple[float, ...]:
    """Does what ``time_files`` does, in a fresh process.

    Raises:
        MeasurementError: the process died; and whatever ``time_files`` raises.
    """
    request = {
        "files": [str(path.resolve()) for path in files],
        "threads": threads,
        "rounds": rounds,
        "percent": percent,
    }
    return decode(tuple[float, ...], _ask("time", request, silent), "the times")


def _ask(job: str, request: dict[str, Any], progress: Progress) -> Any:
    """Has a job done by a fresh process; returns its result as JSON.

    Raises:
        MeasurementError: the process died; and whatever the job raises.
    """
    # without -P a folder named `runtime` where the user stands would be taken for ours
    command = [sys.executable, "-P", "-m", "device_bench.apart"]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # a child that died at once; its status is told below
                child.stdin.write(json.dumps({"job": job, **request}))
                child.stdin.close()
            for line in child.stdout:
                answer = _answer(line)
                if "progress" in answer:
                    progress(*answer["progress"])
                elif "error" in answer:
                    raise _error(answer["error"], answer["text"])
                elif "result" in answer:
                    return answer["result"]
        except BaseException:
            child.kill()
            raise
        status = child.wait()
        said.seek(0)
        last = (said.read().strip().splitlines() or ["no message"])[-1]
    raise MeasurementError(f"The process that measured ended with status {status}", got=last[:300])


def main() -> int:
    """Reads a request from stdin; writes progress, and a result or an error, to stdout, a JSON line each."""

    def tell(answer: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        tell({"progress": [stage, done, total, note]})

    request = json.load(sys.stdin)
    try:
        result = _do(request, progress)
    except runtime.PocketVitError as error:
        tell({"error": type(error).__name__, "text": str(error)})
        return error.exit_code
    tell({"result": encode(result)})
    return 0


def _do(request: dict[str, Any], progress: Progress) -> BenchResult | tuple[float, ...]:
    files = [Path(path) for path in request["files"]]
    if request["job"] == "time":
        return time_files(files, threads=request["threads"], rounds=request["rounds"], percent=request["percent"])
    return bench(
        files,
        request["target"],
        threads=request["threads"],
        sampling=decode(Sampling, request["sampling"], "the request"),
        seed=request["seed"],
        progress=progress,
    )


def _answer(line: str) -> dict[str, Any]:
    """Returns a line's JSON object; engines may greet on stdout, which is no answer."""
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error(name: str, text: str) -> runtime.PocketVitError:
    """Returns the error of that name with a text that is whole already."""
    kind = getattr(runtime, name, MeasurementError)
    if not (isinstance(kind, type) and issubclass(kind, runtime.PocketVitError)) or kind is runtime.MissingExtraError:
        kind = MeasurementError
    error: runtime.PocketVitError = kind(text)
    return error


if __name__ == "__main__":
    raise SystemExit(main())
