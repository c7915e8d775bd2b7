"""Where a bench can run, by the kind of target."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult
from runtime import Progress, UnsupportedTargetError, silent

from .base import Device

Bencher = Callable[[Device, BenchRequest, Progress, threading.Event], tuple[BenchResult, ...]]


def _cpu(device: Device, request: BenchRequest, progress: Progress, stop: threading.Event) -> tuple[BenchResult, ...]:
    from .cpu import bench_files

    return (bench_files(request, progress),)


def _cuda(device: Device, request: BenchRequest, progress: Progress, stop: threading.Event) -> tuple[BenchResult, ...]:
    from .cuda import bench_files_on_cuda

    result = bench_files_on_cuda(
        request.files,
        threads=request.threads,
        sampling=request.sampling,
        seed=request.seed,
        progress=progress,
    )
    return (result,)


def _ssh(device: Device, request: BenchRequest, progress: Progress, stop: threading.Event) -> tuple[BenchResult, ...]:
    from .ssh import bench_over_ssh

    return (bench_over_ssh(device, request, progress, stop=stop),)


def _adb(device: Device, request: BenchRequest, progress: Progress, stop: threading.Event) -> tuple[BenchResult, ...]:
    from device_bench.targets.android.adb import bench_over_adb

    return bench_over_adb(device, request, progress, stop=stop)


def _emu(device: Device, request: BenchRequest, progress: Progress, stop: threading.Event) -> tuple[BenchResult, ...]:
    from .emulated import bench_emulated

    return (bench_emulated(device, request, progress, stop=stop),)


_BENCHERS: dict[str, Bencher] = {"cpu": _cpu, "cuda": _cuda, "ssh:": _ssh, "adb:": _adb, "emu:": _emu}
"""What measures on a target, by its name, up to the colon if it has one."""

TARGETS = tuple(_BENCHERS)


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
    timeout_s: float = 120.0,
    progress: Progress = silent,
) -> BenchResult:
    """Measures ``files`` on ``target``; a file that crashes, hangs or cannot be run is among the result's failures.

    Args:
        files: ``.onnx`` and ``.tflite`` files, all of different names.
        target: the address of a device, see ``Device``.
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
    return run_request(request, progress)


def run_request(request: BenchRequest, progress: Progress = silent) -> BenchResult:
    """Measures what ``request`` asks, by the kind of its target.

    Raises:
        UnsupportedTargetError: there is no such target.
        PocketVitError: see ``bench``.
    """
    return bench_device(Device(request.target), request, progress)[0]


def bench_device(
    device: Device, request: BenchRequest, progress: Progress = silent, *, stop: threading.Event | None = None
) -> tuple[BenchResult, ...]:
    """Measures what ``request`` asks on ``device``, whatever target the request names.

    There is one result, or for a phone one for each of its backends.

    Args:
        device: where.
        request: what to measure of which files.
        progress: told of files and rounds done.
        stop: when set, a device that is not this machine is left as soon as possible.

    Raises:
        PocketVitError: see ``bench``.
    """
    bencher = _BENCHERS.get(device.scheme)
    if bencher is None:
        raise UnsupportedTargetError(
            "Unknown bench target", expected=f"one of {', '.join(TARGETS)}", got=repr(device.address)
        )
    wanted = replace(request, target=device.address, threads=device.threads or request.threads)
    return bencher(device, wanted, progress, stop or threading.Event())
