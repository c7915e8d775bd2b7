"""Where a bench can run, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime import Progress, UnsupportedTargetError, silent

from .measure import Sampling
from .results import BenchResult

TARGETS = ("cpu",)


def bench(
    files: Sequence[Path],
    target: str = "cpu",
    *,
    threads: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> BenchResult:
    """Measures ``files`` on ``target``.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        target: one of ``TARGETS``.
        threads: of each engine, at least 1.
        sampling: how long to measure; by default ``Sampling()``.
        seed: of the inputs and of the order.
        progress: told of files and rounds done.

    Raises:
        UnsupportedTargetError: there is no such target, or ``threads`` is below 1.
        ArtifactError: a file cannot be loaded, or is not the one its manifest describes; nothing was timed.
        MissingExtraError: an engine is not installed.
        MeasurementError: no file, two of the same name, or one that fails while it runs.
    """
    if target not in TARGETS:
        raise UnsupportedTargetError("Unknown bench target", expected=f"one of {', '.join(TARGETS)}", got=repr(target))
    from .cpu import bench_files

    return bench_files(files, threads=threads, sampling=sampling, seed=seed, progress=progress)
