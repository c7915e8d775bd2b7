"""Target ``gpu``: ``.tflite`` files timed on this machine's GPU by LiteRT's CompiledModel (Vulkan, Metal, Direct3D).

NOT RUN ON HARDWARE YET: this was written without a GPU at hand. It refuses to time a driver that computes on the CPU.

The time of an inference is the host's time from an image in its memory to outputs in its memory: LiteRT gives no events
of the GPU, and only reading the output waits for it. Before a file is timed, its outputs for some random images are
compared with the CPU's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from device_bench.clock import Clock
from device_bench.documents.figures import Failure, MemoryUse
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult, FileResult
from device_bench.machine.state import MachineState, machine_state
from device_bench.timing.inputs import input_shape, random_input
from device_bench.timing.measure import measure_interleaved
from runtime import (
    Artifact,
    Engine,
    PocketVitError,
    Progress,
    UnsupportedTargetError,
    manifest_path,
    open_engine,
    read_artifact,
    sha256_of,
    silent,
    tool_version,
)
from runtime.engines import ENGINES
from runtime.formats import format_of
from runtime.gpu.adapter import Adapter, check_hardware
from runtime.gpu.run import find_gpu, no_gpu
from runtime.session import check_right_on_gpu

from .base import Device, Target
from .finding import Finding

NOT_RUN = "This target has not been run on a hardware GPU by its authors: look at the times with care."

_HOW = "latency is the host's time from an image in its memory to outputs in its memory"
_IMAGES = 4
_LEAST_COSINE = 0.99
"""Least cosine of a float file's outputs on GPU and CPU; phones' and desktops' GPUs may round to float16."""


def find_adapter() -> Adapter:
    """Returns the adapter that LiteRT chooses on this machine.

    Raises:
        UnsupportedTargetError: there is none.
        MissingExtraError: ai-edge-litert is not installed.
    """
    found = find_gpu()
    if found is None:
        raise no_gpu()
    return found[1]


@dataclass(frozen=True)
class GpuAccess:
    """How the GPU is reached; a test puts stand-ins here.

    Attributes:
        adapter: returns the adapter that LiteRT chooses.
        open: loads a file into an engine on a device, ``gpu`` or ``cpu``.
        clock: the host's, in nanoseconds.
        machine: returns the state of the host.
    """

    adapter: Callable[[], Adapter] = find_adapter
    open: Callable[[Path, str], Engine] = lambda path, device: open_engine(path, device=device)
    clock: Clock = time.perf_counter_ns
    machine: Callable[[], MachineState] = machine_state


@dataclass(frozen=True)
class _Ready:
    file: Path
    engine: Engine
    manifest: Artifact | None
    sha256: str
    note: str


def bench_files_on_gpu(
    request: BenchRequest, progress: Progress = silent, access: GpuAccess | None = None
) -> BenchResult:
    """Measures the latency of ``.tflite`` files on this machine's GPU, interleaved.

    A file that its manifest calls wrong on GPUs, whose outputs are wrong here, or that LiteRT cannot compile wholly for
    the GPU becomes a failure of the result, and the others are measured.

    Args:
        request: what to measure of which files; latency alone is measured.
        progress: reports the files and rounds that are done.
        access: how to reach the GPU; by default really.

    Raises:
        UnsupportedTargetError: there is no GPU that LiteRT can use, only a driver that computes on the CPU, or a file
            is no ``.tflite`` file.
        MissingExtraError: ai-edge-litert is not installed.
    """
    access = access or GpuAccess()
    wrong = [file.name for file in request.files if "gpu" not in _devices_of(file)]
    if wrong:
        raise UnsupportedTargetError(f"{', '.join(wrong)} cannot run on this target", expected="a .tflite file")
    adapter = access.adapter()
    check_hardware(adapter)
    ready, failures = [], []
    for done, file in enumerate(request.files):
        progress("load", done, len(request.files), file.name)
        try:
            ready.append(_opened(file, request.seed, access))
        except PocketVitError as error:
            failures.append(Failure(file.name, str(error)))
    progress("load", len(request.files), len(request.files))
    before, runners = access.machine(), {}
    for item in ready:
        runners[item.file.name] = partial(item.engine.run, random_input(item.engine, item.file.name, request.seed))
    times = (
        measure_interleaved(
            runners, sampling=request.sampling, seed=request.seed, clock=access.clock, progress=progress
        )
        if runners
        else ()
    )
    files = tuple(
        FileResult(
            file=item.file.name,
            sha256=item.sha256,
            size_bytes=item.file.stat().st_size,
            precision=item.manifest.precision if item.manifest else None,
            engine=f"{item.engine.name} on {adapter.name or 'a GPU'}",
            engine_version=item.engine.version,
            threads=request.threads,
            batch=input_shape(item.engine, item.file.name)[0],
            measurements=(latency,),
            memory=MemoryUse(None, None, "Memory of the GPU is not measured"),
            macs=item.manifest.macs if item.manifest else None,
            notes=(_HOW, item.note),
        )
        for item, latency in zip(ready, times, strict=True)
    )
    return BenchResult(
        target="gpu",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        seed=request.seed,
        sampling=request.sampling,
        before=before,
        after=access.machine(),
        files=files,
        failures=tuple(failures),
        notes=(f"GPU: {adapter.described}", NOT_RUN),
    )


def _devices_of(file: Path) -> tuple[str, ...]:
    """Returns the devices of the engines that read a file."""
    form = format_of(file).name
    return tuple(device for kind in ENGINES.values() if form in kind.formats for device in kind.devices)


def _opened(file: Path, seed: int, access: GpuAccess) -> _Ready:
    """Returns a file ready to be timed, with a note on its outputs.

    Raises:
        UnsupportedTargetError: its outputs are wrong on GPUs, or LiteRT cannot compile it wholly for this one.
        ArtifactError: it cannot be loaded, or is not the file of its manifest.
    """
    # the manifest first: its digest keeps damaged bytes from the engine
    manifest = read_artifact(file) if manifest_path(file).is_file() else None
    if manifest is not None:
        check_right_on_gpu(manifest)
    engine, cpu = access.open(file, "gpu"), access.open(file, "cpu")
    cosines = []
    for image in range(_IMAGES):
        batch = random_input(cpu, file.name, seed + image)
        a, b = (own.run(batch).astype(np.float64).ravel() for own in (cpu, engine))
        cosines.append(float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30)))
    least = min(cosines)
    if manifest is not None and manifest.calibration is None and not least >= _LEAST_COSINE:
        raise UnsupportedTargetError(
            f"The outputs of {file.name} on this GPU are wrong, so it is not timed",
            expected=f"a cosine of {_LEAST_COSINE:g} to the CPU's",
            got=f"{least:.4f}",
            fix="Compare them with `pocketvit verify FILE --with gpu`, and run the file on the CPU",
        )
    note = f"its outputs for {_IMAGES} random images have a cosine of {least:.6f} or more to the CPU's"
    return _Ready(file, engine, manifest, manifest.sha256 if manifest else sha256_of(file), note)


def _bench(device: Device, request: BenchRequest, progress: Progress, *, stop: threading.Event) -> BenchResult:
    return replace(bench_files_on_gpu(request, progress), target=request.target)


def _check(device: Device) -> tuple[Finding, ...]:
    adapter = find_adapter()
    check_hardware(adapter)
    return (Finding(device.label, "GPU", adapter.described),)


GPU = Target(_bench, _check, "this machine's GPU, through LiteRT", local=True)
