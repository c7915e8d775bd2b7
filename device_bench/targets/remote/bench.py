"""Measures on a device that has Python: the program that measures here is sent there and run there."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_bench.documents.figures import Failure
from device_bench.documents.request import BenchRequest, check_files
from device_bench.documents.results import BenchResult
from device_bench.targets.base import Device
from device_bench.targets.finding import Finding
from device_bench.targets.link import Link
from runtime import MeasurementError, Progress, decode, encode, manifest_path, silent, tool_version
from runtime.engines import engine_of

from .bootstrap import PORTABLE, bootstrap
from .bundle import bundle
from .connection import Order, Survey, Upload, run_on_device
from .supervisor import OLDEST_PYTHON

_LEAST_FREE = 50e6
_SLACK_S = 30.0
_EMULATED_TIMES = 10
_IMAGES = "images.npz"


def bench_over_link(
    device: Device,
    link: Link,
    request: BenchRequest,
    progress: Progress = silent,
    *,
    stop: threading.Event | None = None,
) -> BenchResult:
    """Measures the files of ``request`` on ``device``.

    File names reach the device as data, never through a shell. A file whose engine the device lacks becomes a failure
    of the result, and the other files are measured.

    Args:
        device: the device.
        link: connection to the device.
        request: what to measure of which files; its target is ignored.
        progress: reports the files and rounds that are done.
        stop: once it is set, all work ends, on the device too.

    Raises:
        ArtifactError: a file does not exist, or is no model file by its name.
        MeasurementError: the device cannot be reached, lacks the engine of every file, stops answering, or was stopped.
    """
    check_files(request)
    if request.bootstrap:
        engines = [engine_of(file) for file in request.files]
        packages = sorted({"numpy", *(engine.package for engine in engines if engine.portable)})
        bootstrap(device, link, packages, progress, stop=stop)
    lacking: list[Path] = []
    threads = device.threads or request.threads

    def plan(survey: Survey) -> Order:
        lacking.extend(_lacking(device, request.files, survey))
        left = tuple(file for file in request.files if file not in lacking)
        slow = _EMULATED_TIMES if survey.emulated else 1
        return _order(replace(request, files=left, threads=threads, timeout_s=request.timeout_s * slow))

    answer = run_on_device(link, device.python, plan, progress, stop=stop)
    result = decode(BenchResult, answer, f"the result of {device.label}")
    failures = [Failure(file.name, _cure(device, [engine_of(file).package])) for file in lacking]
    return replace(result, target=device.address, tool_version=tool_version(), failures=(*result.failures, *failures))


def _order(request: BenchRequest) -> Order:
    uploads = [Upload(("agent", "agent.pyz"), bundle(), unpack=True)]
    places = []
    for number, file in enumerate(request.files):
        place = ("files", str(number))
        places.append("/".join((*place, file.name)))
        uploads.append(Upload((*place, file.name), file))
        manifest = manifest_path(file)
        if manifest.is_file():
            uploads.append(Upload((*place, manifest.name), manifest))
    if request.images is not None:
        uploads.append(Upload((_IMAGES,), request.images))
    asked = encode(request)
    del asked["web"]  # is for pages that this machine serves
    body: dict[str, Any] = {
        **asked,
        "files": places,
        "target": "cpu",
        "images": None if request.images is None else _IMAGES,
        "sampling": encode(request.sampling),
    }
    return Order(
        uploads=tuple(uploads),
        argv=("-P", "-m", "device_bench.worker.child"),
        packages="agent",
        request={"job": "bench", "request": body},
        silence_s=request.timeout_s + _SLACK_S,
    )


def _lacking(device: Device, files: tuple[Path, ...], survey: Survey) -> list[Path]:
    """Returns the files whose engine the device lacks.

    Raises:
        MeasurementError: nothing can be run at all.
    """
    if "numpy" not in survey.versions:
        needed = sorted({"numpy", *(engine_of(file).package for file in files)})
        raise MeasurementError(f"numpy is not installed for the Python on {device.label}", fix=_cure(device, needed))
    lacking = [file for file in files if engine_of(file).package not in survey.versions]
    if len(lacking) == len(files):
        engines = sorted({engine_of(file).package for file in files})
        raise MeasurementError(
            f"{' and '.join(engines)} cannot be found by the Python on {device.label}", fix=_cure(device, engines)
        )
    return lacking


def _cure(device: Device, packages: list[str]) -> str:
    command = f"{device.python} -m pip install {' '.join(packages)}"
    return f"Install there: {command}; or have it done from here with --bootstrap"


def findings_of(device: Device, survey: Survey) -> tuple[Finding, ...]:
    """Returns the findings of ``pocketvit targets check`` for a device that answered."""
    label = device.label
    python = f"{survey.python}{' in its own folder (--bootstrap)' if survey.venv else ''}"
    new_enough = tuple(map(int, survey.python.split(".")[:2])) >= OLDEST_PYTHON
    oldest = ".".join(map(str, OLDEST_PYTHON))
    found = [
        Finding(label, "link", f"{survey.system} on {survey.machine}"),
        Finding(
            label,
            "python",
            python if new_enough else None,
            f"It is {survey.python}: install {oldest} or newer there, and name it in targets.toml: python = …",
        ),
        *(Finding(label, package, survey.versions.get(package), _cure(device, [package])) for package in PORTABLE),
        Finding(
            label,
            "free space",
            f"{survey.free_bytes / 1e6:.0f} MB" if survey.free_bytes > _LEAST_FREE else None,
            f"{survey.free_bytes / 1e6:.1f} MB are left: free some",
        ),
    ]
    if survey.raspberry and not survey.emulated:
        found.append(Finding(label, "vcgencmd", "yes" if survey.vcgencmd else None, "sudo apt install raspi-utils"))
    if survey.emulated:
        found.append(Finding(label, "processor", "emulated: no times, no energy"))
    return tuple(found)
