"""Measures files on a target."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult
from device_bench.targets import TARGETS
from runtime import MeasurementError, Progress, UnsupportedTargetError, silent
from runtime.worker.parent import SILENCE_S

from .base import Device, TimeTogether


def bench(
    files: Sequence[Path | str],
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
    images: Path | str | None = None,
    timeout_s: float = SILENCE_S,
    progress: Progress = silent,
) -> BenchResult:
    """Measures ``files`` on ``target``; a file that crashes, hangs or cannot be run is among the result's failures.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        target: the address of a device, see ``Device``.
        threads: of each engine, at least 1.
        sampling: how long to measure latency; by default ``Sampling()``.
        seed: of the inputs and of the order.
        startup: measure loading and first inference too.
        throughput_s: seconds to spend on each file's throughput; 0 does not measure it.
        peaks: measure the machine's own peak arithmetic too, if the MACs of a file are known.
        energy: measure the energy of an inference too.
        country: whose grid the CO2 is of, ISO 3166 alpha-3.
        images: labelled images to answer on the target, as ``write_test_images`` writes them.
        timeout_s: a file that gives no sign for so long hangs, s.
        progress: reports the files and rounds that are done.

    Raises:
        UnsupportedTargetError: there is no such target, or ``threads`` is below 1.
        ArtifactError: a file does not exist, or is no model file by its name.
        MeasurementError: no file, two of the same name, or a process that measures cannot be had.
    """
    request = BenchRequest(
        files=tuple(map(Path, [files] if isinstance(files, str) else files)),
        target=target,
        threads=threads,
        sampling=sampling or Sampling(),
        seed=seed,
        startup=startup,
        throughput_s=throughput_s,
        peaks=peaks,
        energy=energy,
        country=country,
        images=Path(images) if images is not None else None,
        timeout_s=timeout_s,
    )
    found = bench_device(Device(target), request, progress)
    if not found:
        raise MeasurementError(f"Nothing came to {target}", fix="Open the page that the bench prints")
    return found[0]


def bench_device(
    device: Device, request: BenchRequest, progress: Progress = silent, *, stop: threading.Event | None = None
) -> tuple[BenchResult, ...]:
    """Measures what ``request`` asks on ``device``, whatever target the request names.

    Returns one result, one for each backend of a phone, or those of the browsers that came.

    Args:
        device: where.
        request: what to measure of which files.
        progress: reports the files and rounds that are done.
        stop: once it is set, the bench of another machine ends as soon as possible.

    Raises:
        PocketVitError: see ``bench``.
    """
    wanted = replace(request, target=device.address, threads=device.threads or request.threads)
    found = device.target.bench(device, wanted, progress, stop=stop or threading.Event())
    return found if isinstance(found, tuple) else (found,)


def time_together(address: str) -> TimeTogether:
    """Returns what times the files of a latency table on a target.

    Raises:
        UnsupportedTargetError: there is no such target, or no table can be measured there.
    """
    with suppress(UnsupportedTargetError):
        found = Device(address).target.time_together
        if found is not None:
            return found
    known = ", ".join(form for form, target in TARGETS.items() if target.time_together)
    raise UnsupportedTargetError("The target cannot be profiled", expected=known, got=repr(address))
