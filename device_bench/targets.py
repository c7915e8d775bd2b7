"""Where a bench can run, by the kind of target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from runtime import Progress, UnsupportedTargetError, silent

from .measure import Sampling
from .request import BenchRequest
from .results import BenchResult

Bencher = Callable[[BenchRequest, Progress], BenchResult]


def _cpu(request: BenchRequest, progress: Progress) -> BenchResult:
    from .cpu import bench_files

    return bench_files(request, progress)


def _cuda(request: BenchRequest, progress: Progress) -> BenchResult:
    from .cuda import bench_files_on_cuda

    return bench_files_on_cuda(
        request.files,
        threads=request.threads,
        sampling=request.sampling,
        seed=request.seed,
        progress=progress,
    )


_BENCHERS: dict[str, Bencher] = {"cpu": _cpu, "cuda": _cuda}
"""What measures on a target, by its name, up to the colon if it has one."""

TARGETS = tuple(_BENCHERS)


def bench(
    files: Sequence[Path],
    target: str = "cpu",
    *,
    threads: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    startup: bool = True,
    throughput_s: float = 0.0,
    peaks: bool = True,
    energy: bool = False,
    country: str | None = None,
    images: Path | None = None,
    timeout_s: float = 120.0,
    progress: Progress = silent,
) -> BenchResult:
    """Measures ``files`` on ``target``; a file that crashes, hangs or cannot be run is among the result's failures.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        target: one of ``TARGETS``.
        threads: of each engine, at least 1.
        sampling: how long to measure; by default ``Sampling()``.
        seed: of the inputs and of the order.
        startup: measure loading and first inference too.
        throughput_s: seconds to spend on each file's throughput; 0 does not measure it.
        peaks: measure the machine's own peak arithmetic too, if the MACs of a file are known.
        energy: measure the energy of an inference too.
        country: whose grid the CO2 is of, ISO 3166 alpha-3.
        images: labelled images to answer on the target, as ``write_test_images`` writes them.
        timeout_s: a file that gives no sign for so long hangs, s.
        progress: told of files and rounds done.

    Raises:
        UnsupportedTargetError: there is no such target, or ``threads`` is below 1.
        ArtifactError: a file does not exist, or is no model file by its name.
        MeasurementError: no file, two of the same name, or a process that measures cannot be had.
    """
    request = BenchRequest(
        files=tuple(files),
        target=target,
        threads=threads,
        sampling=sampling or Sampling(),
        seed=seed,
        startup=startup,
        throughput_s=throughput_s,
        peaks=peaks,
        energy=energy,
        country=country,
        images=images,
        timeout_s=timeout_s,
    )
    return run_request(request, progress)


def run_request(request: BenchRequest, progress: Progress = silent) -> BenchResult:
    """Measures what ``request`` asks, by the kind of its target.

    Raises:
        UnsupportedTargetError: there is no such target.
        PocketVitError: see ``bench``.
    """
    if request.scheme not in _BENCHERS:
        raise UnsupportedTargetError(
            "Unknown bench target", expected=f"one of {', '.join(TARGETS)}", got=repr(request.target)
        )
    return _BENCHERS[request.scheme](request, progress)
