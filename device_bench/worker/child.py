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
from runtime import MissingExtraError, PocketVitError, Progress, decode, encode

from .apart import marker_of

_TELL_EVERY_S = 0.1

Mark = Callable[[int], None]


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
        result = _JOBS[request["job"]](request, teller(stream), mark)
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


def _throughput(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.throughput import measure_throughput

    return measure_throughput(
        Path(request["file"]),
        threads=request["threads"],
        budget_s=request["budget_s"],
        seed=request["seed"],
        progress=progress,
        sign=lambda: mark(0),
    )


def _peaks(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.peaks import measure_peaks

    return measure_peaks(request["threads"], tuple(request["arithmetics"]), sign=lambda: mark(0))


def _energy(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.timing import measure_energy_of

    return measure_energy_of(
        Path(request["file"]),
        threads=request["threads"],
        seed=request["seed"],
        country=request["country"],
        sign=lambda: mark(0),
    )


def _accuracy(request: dict[str, Any], progress: Progress, mark: Mark) -> Any:
    from device_bench.metrics.accuracy import accuracy_of, read_test_images
    from runtime import load

    images = read_test_images(Path(request["images"]))
    mark(0)
    session = load(request["file"], threads=request["threads"])
    return accuracy_of(session, images, progress=progress, sign=lambda: mark(0))


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


_JOBS: dict[str, Callable[[dict[str, Any], Progress, Mark], Any]] = {
    "start": _start,
    "time": _time,
    "latency": _latency,
    "throughput": _throughput,
    "peaks": _peaks,
    "energy": _energy,
    "accuracy": _accuracy,
    "duel": _duel,
    "bench": _bench,
}


if __name__ == "__main__":
    raise SystemExit(main())
