"""The process in which the sandbox opens files from unknown sources. It loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import ArtifactError, MissingExtraError, PocketVitError, decode
from runtime.engines import engine_of
from runtime.formats import format_of
from runtime.worker.child import Reporter, limit, serve

from .readers import READERS, Reader, reader_of

_MEMORY_PER_BYTE = 8
"""Further address space of a job for each byte of its file."""


def main() -> int:
    """Runs the jobs that are requested on stdin until it is closed."""
    return serve({name: _limited(job) for name, job in _JOBS.items()}, _refusal)


def _limited(job: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``job`` with its path decoded and its address space limited."""

    def run(reporter: Reporter, path: str, **request: Any) -> Any:
        file = Path(path)
        form = format_of(file).name
        base = READERS[form].memory_bytes if form in READERS else Reader.memory_bytes
        size = file.stat().st_size
        if "against" in request:
            size += Path(request["against"]).stat().st_size
        limit("RLIMIT_AS", base + _MEMORY_PER_BYTE * size)
        return job(file, reporter, **request)

    return run


def _refusal(error: Exception, request: dict[str, Any]) -> PocketVitError:
    """Returns the error for the parent, which names the file: parsers fail on damaged files in every way there is."""
    path = Path(request["path"])
    if isinstance(error, MissingExtraError) or (isinstance(error, PocketVitError) and path.name in str(error)):
        return error
    if isinstance(error, PocketVitError):
        return type(error)(f"{path}: {error}")
    if isinstance(error, MemoryError):
        return ArtifactError(f"{path} asks for more memory than a model of its size needs")
    return ArtifactError(
        f"{path} is damaged or no model this can read",
        got=f"{type(error).__qualname__}: {str(error)[:300]}".removeprefix("error: "),
        fix="Copy it or export it again",
    )


def _contents(path: Path, reporter: Reporter) -> Any:
    from .contents import summarise_contents

    return summarise_contents(reader_of(path).model(path), path.stat().st_size)


def _partitions(path: Path, reporter: Reporter) -> Any:
    find_partitions = reader_of(path).partitions
    assert find_partitions is not None
    reporter.doing(engine_of(path).title, "loading")
    return find_partitions(path)


def _times(path: Path, reporter: Reporter, threads: int, budget_s: float) -> Any:
    times = reader_of(path).times
    assert times is not None
    reporter.doing(engine_of(path).title, "running")
    return times(path, threads, budget_s, reporter.progress)


def _widths(path: Path, reporter: Reporter, plan: Any) -> Any:
    from runtime import ShapePlan

    from .widths import read_widths

    return read_widths(path, decode(ShapePlan, plan, "the plan"))


def _run(path: Path, reporter: Reporter, images: int) -> Any:
    from .running import run_seeded

    return run_seeded(path, images, reporter)


def _tensorflow(path: Path, reporter: Reporter, images: int) -> Any:
    from .running import run_in_tensorflow

    return run_in_tensorflow(path, images, reporter)


def _operators(path: Path, reporter: Reporter, against: str, images: str | None, threads: int) -> Any:
    from .against.compare import compare_operators

    reporter.doing(engine_of(path).title, "comparing operators of")
    given = None if images is None else Path(images)
    return compare_operators(path, Path(against), given, threads=threads, progress=reporter.progress)


def _lint(path: Path, reporter: Reporter, engine: str, images: str | None) -> Any:
    from .lint.lint_file import lint

    reporter.doing(engine_of(path).title, "linting")
    return lint(path, engine, None if images is None else Path(images), reporter.progress)


_JOBS: dict[str, Callable[..., Any]] = {
    "contents": _contents,
    "partitions": _partitions,
    "times": _times,
    "widths": _widths,
    "run": _run,
    "tensorflow": _tensorflow,
    "operators": _operators,
    "lint": _lint,
}


if __name__ == "__main__":
    sys.exit(main())
