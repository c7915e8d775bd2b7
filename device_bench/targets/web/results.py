"""Turns what browsers sent into the results of a bench, one for each page and backend."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from device_bench.documents.figures import Accuracy, Failure, MemoryUse, Startup, confusion
from device_bench.documents.measurement import Measurement
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult, FileResult
from device_bench.timing.steadiness import series_notes
from runtime import encode, tool_version

from .gather import Gathering, Visit, VisitPart
from .messages import PageDone, WebBackend
from .offer import OfferedFile
from .packages import VERSIONS

_GONE = "The page was closed, or gave no sign any more, before the file was done."
_LIMITS = (
    "A browser measures no throughput, no memory and no energy, files are timed one after another, and a time in a "
    "browser is not the time of an app."
)
_SOFTWARE = "WebGPU computes on the CPU here, so there are answers and no times."
_COARSE_S = 1e-5


def web_results(
    gathering: Gathering, request: BenchRequest, failures: Sequence[Failure] = ()
) -> tuple[BenchResult, ...]:
    """Returns the results of all pages; a file that was not done, failed or gave wrong answers is a failure.

    Args:
        gathering: what the pages sent.
        request: what was asked.
        failures: files that were offered to no page.
    """
    return tuple(
        _result(gathering, visit, backend, request, failures)
        for visit in gathering.visits()
        for backend in visit.backends
    )


def _result(
    gathering: Gathering, visit: Visit, backend: WebBackend, request: BenchRequest, failures: Sequence[Failure]
) -> BenchResult:
    software = gathering.software(visit, backend)
    files, failed = [], list(failures)
    for index, file in enumerate(gathering.files):
        part = visit.parts[index, backend]
        why = _why_not(part)
        if why is None and part.done is not None:
            files.append(_file(file, part, part.done, backend, timed=not software))
        else:
            failed.append(Failure(file.name, why or _GONE))
    state = visit.facts.machine()
    again = [f"The page was loaded {visit.loads} times."] if visit.loads > 1 else []
    untried = backend == "webgpu" and not software
    return BenchResult(
        target=f"web:{visit.label}-{backend}",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        seed=request.seed,
        sampling=request.sampling,
        before=state,
        after=state,
        files=tuple(files),
        failures=tuple(failed),
        notes=(
            *visit.facts.words,
            *([_SOFTWARE] if software else []),
            *(
                ["PocketViT's authors have not tried WebGPU on a graphics chip: look at it with care."]
                if untried
                else []
            ),
            *again,
            _LIMITS,
        ),
        emulated=software,
    )


def _why_not(part: VisitPart) -> str | None:
    if part.failure is not None:
        return f"The browser says: {part.failure}"
    if part.done is None or part.verdict is None:
        return _GONE
    if part.verdict.wrong is not None:
        return f"ITS ANSWERS ARE WRONG in this browser, so its times are not kept: {part.verdict.wrong}."
    return None


def _file(file: OfferedFile, part: VisitPart, done: PageDone, backend: WebBackend, *, timed: bool) -> FileResult:
    assert part.verdict is not None
    manifest, values = file.manifest, part.series(warmup=False)
    latency = Measurement("latency", "s", values, part.series(warmup=True), done.steady) if timed else None
    return FileResult(
        file=file.name,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        precision=manifest.precision if manifest else None,
        engine=f"{file.engine} {backend}",
        engine_version=VERSIONS[file.engine],
        threads=done.threads,
        batch=file.batch,
        measurements=(latency,) if latency else (),
        memory=MemoryUse(None, None, "a browser does not tell it"),
        startup=Startup((done.load_s,), (done.first_run_s,)) if timed else None,
        macs=manifest.macs if manifest else None,
        accuracy=_accuracy(file, part.verdict.top1),
        notes=(*(series_notes(values, done.steady) if timed else ()), *_notes(part, done, file.engine, backend)),
        metrics={"answers": encode(f"{part.verdict.same} of {part.verdict.images} as on the CPU")},
    )


def _notes(part: VisitPart, done: PageDone, engine: str, backend: WebBackend) -> tuple[str, ...]:
    assert part.verdict is not None
    notes = [f"it gave {part.verdict.words}"]
    if done.runs_per_value > 1:
        notes.append(
            f"each time is the mean of {done.runs_per_value} runs, since the browser's clock has steps of "
            f"{1e6 * done.resolution_s:.0f} us"
        )
    elif done.resolution_s > _COARSE_S:
        notes.append(f"the browser's clock has steps of {1e6 * done.resolution_s:.0f} us")
    if done.hidden:
        notes.append("THE PAGE WAS IN THE BACKGROUND for a while, where browsers slow pages down")
    if backend == "webgpu" and done.whole is None:
        notes.append(f"{engine} does not tell whether the CPU computed a part of it")
    return tuple(notes)


def _accuracy(file: OfferedFile, top1: tuple[int, ...]) -> Accuracy | None:
    if file.labels is None or file.images is None:
        return None
    counts = confusion(file.labels, np.asarray(top1, np.int64))
    return Accuracy(file.images.data, file.images.split, len(file.images.class_names), counts, top1)
