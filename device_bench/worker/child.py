"""The process that ``apart`` starts: reads one request from stdin, and answers on stdout, a JSON line each."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from device_bench.documents.measurement import Sampling
from device_bench.metrics.timing import no_mark
from runtime import MeasurementError, MissingExtraError, PocketVitError, Progress, decode, encode

from .apart import marker_of

_TELL_EVERY_S = 0.1

Mark = Callable[[int], None]
Job = Callable[[dict[str, Any], Progress, Mark], Any]


def main() -> int:
    """Does one job; writes progress, and a result or an error."""
    # engines greet on stdout, which is for answers alone
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    request = json.load(sys.stdin)
    try:
        mark = marker_of(request["turns"]) if "turns" in request else no_mark
        job = _JOBS.get(request["job"]) or _metric(request["job"])
        result = job(request, teller(stream), mark)
    except PocketVitError as error:
        missing = [error.package, error.extra] if isinstance(error, MissingExtraError) else None
        _tell(stream, {"error": type(error).__name__, "text": str(error), "missing": missing})
        return error.exit_code
    _tell(stream, {"result": encode(result)})
    return 0


def teller(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Returns a progress callback that writes at most ten lines a second: who reads them needs a core as well.

    The first and the last line of a stage are always written.

    Args:
        stream: to write to.
        clock: a monotonic clock, s.
    """
    last: tuple[str, float] = ("", 0.0)

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if stage == last[0] and done < total and clock() - last[1] < _TELL_EVERY_S:
            return
        last = (stage, clock())
        _tell(stream, {"progress": [stage, done, total, note]})

    return progress


def _tell(stream: TextIO, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def _start(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.startup import start

    mark(0)
    return start(Path(request["file"]), request["threads"])


def _time(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.timing import time_files

    files = [Path(path) for path in request["files"]]
    return time_files(files, threads=request["threads"], rounds=request["rounds"], mark=mark)


def _latency(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.timing import time_in_turns

    files = [Path(path) for path in request["files"]]
    sampling = decode(Sampling, request["sampling"], "the request")
    return time_in_turns(
        files, threads=request["threads"], sampling=sampling, seed=request["seed"], progress=progress, mark=mark
    )


def _peaks(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.peaks import measure_peaks

    return measure_peaks(request["threads"], tuple(request["arithmetics"]), sign=lambda: mark(0))


def _metric(name: str) -> Job:
    """Returns the job that measures one metric of one file."""
    from device_bench.metrics import METRICS
    from device_bench.metrics.base import Task

    measure = METRICS[name].measure
    if measure is None:
        raise MeasurementError(f"{name} is not measured in a process of its own")

    def job(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
        file, options = Path(request["file"]), request.get("options", {})
        return measure(Task(file, request["threads"], request["seed"], options, progress, lambda: mark(0)))

    return job


def _duel(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.gate.duel import Rules, duel_here

    return duel_here(
        Path(request["base"]),
        Path(request["new"]),
        threads=request["threads"],
        seed=request["seed"],
        seconds=request["seconds"],
        before=request["before"],
        rules=decode(Rules, request["rules"], "the request"),
        mark=mark,
    )


def _bench(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.documents.request import BenchRequest
    from device_bench.targets.cpu import bench_files

    body = dict(request["request"])
    files = tuple(Path(path).resolve() for path in body.pop("files"))
    images = body.pop("images")
    sampling = decode(Sampling, body.pop("sampling"), "the request")
    wanted = BenchRequest(files, sampling=sampling, images=Path(images) if images else None, **body)
    return bench_files(wanted, progress)


_JOBS: dict[str, Job] = {
    "start": _start,
    "time": _time,
    "latency": _latency,
    "peaks": _peaks,
    "duel": _duel,
    "bench": _bench,
}


if __name__ == "__main__":
    raise SystemExit(main())
