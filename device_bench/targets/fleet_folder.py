"""Reads and writes a folder of bench results, one file for each target, and the failures of other devices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from runtime import ArtifactError, Document, storage_errors

from .base import BACKENDS
from .fleet import DeviceFailure, Fleet

FAILURE_DOCUMENT = Document("pocketvit.bench-failure", 1, DeviceFailure, sealed="Bench the device again")
FAILED = "failed"
"""Name of the folder of failures within the folder of results."""


def write_fleet(folder: Path, fleet: Fleet) -> tuple[Path, ...]:
    """Writes each result to ``folder`` as ``TARGET.json``, and each failure to its subfolder ``failed``.

    A result replaces an older result of the same target, whatever its file is called. A failure leaves an older
    result in place.

    Returns:
        The paths, in the order of the results, then of the failures.

    Raises:
        StorageError: a file cannot be written.
    """
    written = []
    for result in fleet.results:
        if result.files:
            path = _place(folder, result.target, lambda path: BENCH_DOCUMENT.read(path).target)
            BENCH_DOCUMENT.write(path, result)
            written.append(path)
            _forget_failures(folder / FAILED, result.target)
    for failure in (*(_as_failure(result) for result in fleet.results if not result.files), *fleet.failures):
        path = _place(folder / FAILED, failure.target, lambda path: FAILURE_DOCUMENT.read(path).target)
        FAILURE_DOCUMENT.write(path, failure)
        written.append(path)
    return tuple(written)


def read_failures(folder: Path) -> tuple[DeviceFailure, ...]:
    """Reads the failures that ``write_fleet`` wrote to ``folder``.

    Raises:
        ArtifactError: a document is damaged.
    """
    return tuple(FAILURE_DOCUMENT.read(path) for path in sorted((folder / FAILED).glob("*.json")))


def _as_failure(result: BenchResult) -> DeviceFailure:
    errors = " ".join(f"{failure.file}: {failure.what}" for failure in result.failures)
    return DeviceFailure(result.target, errors, result.created_utc, result.tool_version)


def _forget_failures(folder: Path, target: str) -> None:
    """Removes the failures of a target, and of the phone if the target is one of its backends."""
    names = {target, *(target.removesuffix(f":{backend}") for backend in BACKENDS)}
    with storage_errors(folder):
        for name in names:
            _place(folder, name, lambda path: FAILURE_DOCUMENT.read(path).target).unlink(missing_ok=True)


def _place(folder: Path, target: str, target_of: Callable[[Path], str]) -> Path:
    """Returns the path of a target's document, or a free path with its name."""
    for path in sorted(folder.glob("*.json")):
        try:
            if target_of(path) == target:
                return path
        except ArtifactError:  # never replaced: it is damaged or another kind of file
            continue
    stem = re.sub(r"[^\w.@+-]+", "-", target).strip("-.") or "target"
    names = (f"{stem}.json", *(f"{stem}-{number}.json" for number in range(2, 10_000)))
    return next(folder / name for name in names if not (folder / name).exists())
