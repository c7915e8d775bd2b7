"""Target ``cuda``: files measured on an NVIDIA GPU, by torch or by ONNX Runtime's CUDA or TensorRT provider.

NOT RUN ON HARDWARE YET: this was written without a GPU at hand. The order of calls and the arithmetic are tested with
stand-ins for the GPU; no figure of this module has been seen on a real one.

Two times are taken of every file, in turns, and never by a clock around a launch that nobody waits for:

- ``latency``: one inference whose image and logits stay on the GPU. In torch it is the time between two CUDA events,
  by the GPU's own clock; where a small model keeps the GPU waiting for the next launch, that wait is in it. ONNX
  Runtime gives no events: there it is the host's clock around a run with bound tensors, the GPU synchronised before
  and after, so that launching is in it.
- ``latency_with_copies``: from an image in the host's memory to logits in the host's memory, by the host's clock, the
  GPU synchronised before and after.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from device_bench.clock import Clock
from device_bench.documents.figures import MemoryUse
from device_bench.documents.measurement import Measurement, Sampling
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult, FileResult
from device_bench.machine.state import MachineState, machine_state
from device_bench.timing.inputs import input_shape, random_input
from device_bench.timing.measure import measure_interleaved
from runtime import (
    Artifact,
    DeviceEngine,
    EngineDevice,
    Event,
    MeasurementError,
    Progress,
    Resident,
    UnsupportedTargetError,
    manifest_path,
    open_device_engine,
    read_artifact,
    sha256_of,
    silent,
    tool_version,
)
from runtime.engines import ENGINES
from runtime.formats import FORMATS

from .base import Device, Target
from .finding import Finding

CudaEngine = str
"""Name of an engine that serves CUDA, or ``tensorrt``."""
WITH_COPIES = "latency_with_copies"

_QUERY = "name,driver_version,temperature.gpu,clocks.sm,utilization.gpu"
_TIMEOUT_S = 20.0
_FIX = (
    "Install the NVIDIA driver until `nvidia-smi` lists a GPU; then for .onnx files the package onnxruntime-gpu in "
    "place of onnxruntime, for .pt2 files a CUDA build of torch"
)
_HOW = {
    "torch": "latency is the GPU's time between two CUDA events around one inference, image and logits on the GPU",
    "onnxruntime": "latency is the host's time around one run with image and logits bound on the GPU, which is "
    "synchronised before and after",
}
_HOW_COPIES = f"{WITH_COPIES} is the host's time from an image in its memory to logits in its memory, synchronised"
_TENSORRT = "TensorRT may round what goes into float32 products to TF32 where the GPU has it"


def ask_driver(program: str = "nvidia-smi") -> str:
    """Returns what ``nvidia-smi`` says of the first GPU: name, driver, temperature, clock, load.

    Args:
        program: where it is.

    Raises:
        UnsupportedTargetError: there is no such program, or it lists no GPU.
    """
    command = [program, "--id=0", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_gpu(f"nvidia-smi does not answer: {error}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0]
        raise _no_gpu(f"nvidia-smi says: {said[:200]}")
    return lines[0].strip()


@dataclass(frozen=True)
class Gpu:
    """How a GPU is reached; a test puts stand-ins here.

    Attributes:
        ask_driver: returns the state of the GPU in words, or raises that there is none.
        open: loads a file into an engine on a device.
        clock: the host's, in nanoseconds.
        machine: returns the state of the host.
    """

    ask_driver: Callable[[], str] = ask_driver
    open: Callable[[Path, int, EngineDevice], DeviceEngine] = lambda path, threads, device: open_device_engine(
        path, None, threads, device
    )
    clock: Clock = time.perf_counter_ns
    machine: Callable[[], MachineState] = machine_state


@dataclass(frozen=True)
class _Loaded:
    file: Path
    engine: DeviceEngine
    manifest: Artifact | None
    sha256: str


class DeviceClock:
    """A clock that advances only by the times added to it, so that the measuring loop counts nothing else."""

    def __init__(self) -> None:
        self._ns = 0

    def __call__(self) -> int:
        """Returns the sum of all times, ns."""
        return self._ns

    def add(self, seconds: float) -> None:
        """Moves on.

        Raises:
            MeasurementError: the time is negative or not finite.
        """
        if not 0 <= seconds < float("inf"):
            raise MeasurementError("The GPU's clock gave an impossible time", expected="0 s or more", got=seconds)
        self._ns += round(seconds * 1e9)


def bench_files_on_cuda(
    files: Sequence[Path],
    *,
    threads: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: Progress = silent,
    engine: CudaEngine | None = None,
    gpu: Gpu | None = None,
) -> BenchResult:
    """Measures the latency of ``files`` on the first NVIDIA GPU, interleaved, without and with copies.

    An error names whatever is missing before anything is measured; nothing falls back to the CPU.

    Args:
        files: ``.onnx`` and ``.pt2`` files, all of different names.
        threads: of each engine on the host, at least 1.
        sampling: how long to measure, counted in measured time; by default ``Sampling()``.
        seed: of the inputs and of the order.
        progress: reports the files and rounds that are done.
        engine: ``onnxruntime`` (CUDA), ``tensorrt`` or ``torch``; by default ONNX Runtime's CUDA provider for
            ``.onnx`` files and torch for ``.pt2`` files.
        gpu: how to reach it; by default really.

    Raises:
        UnsupportedTargetError: there is no GPU, the engine was not built for it, it would leave operators to the CPU,
            a file is of a format it does not read, or ``threads`` is below 1.
        ArtifactError: a file cannot be loaded, or is not the one its manifest describes; nothing was timed.
        MissingExtraError: an engine is not installed.
        MeasurementError: no file, two of the same name, or one that fails while it runs.
    """
    gpu, sampling = gpu or Gpu(), sampling or Sampling()
    _check_files(files, engine)
    gpu.ask_driver()
    loaded = _load(files, threads, "tensorrt" if engine == "tensorrt" else "cuda", gpu, progress)
    device_clock = DeviceClock()
    runners: dict[str, Callable[[], None]] = {}
    for item in loaded:
        batch = random_input(item.engine, item.file.name, seed)
        resident = item.engine.resident(batch)
        runners[item.file.name] = _counted(_timer(resident, gpu.clock), device_clock)
        copying = partial(seconds_by_clock, partial(item.engine.run, batch), resident.wait, gpu.clock)
        runners[f"{item.file.name} with copies"] = _counted(copying, device_clock)
    before, driver_before = gpu.machine(), gpu.ask_driver()
    times = measure_interleaved(runners, sampling=sampling, seed=seed, clock=device_clock, progress=progress)
    return BenchResult(
        target="cuda",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        seed=seed,
        sampling=sampling,
        before=before,
        after=gpu.machine(),
        files=tuple(
            _result(item, threads, latency, replace(copied, metric=WITH_COPIES))
            for item, latency, copied in zip(loaded, times[::2], times[1::2], strict=True)
        ),
        notes=(f"GPU before: {driver_before}", f"GPU after: {gpu.ask_driver()}"),
    )


def seconds_by_events(run: Callable[[], None], event: Callable[[], Event], wait: Callable[[], None]) -> float:
    """Returns the GPU's own time of what ``run`` queues, s: two marks around it, read when the GPU is past both."""
    start, end = event(), event()
    start.record()
    run()
    end.record()
    wait()
    return start.elapsed_time(end) * 1e-3


def seconds_by_clock(run: Callable[[], object], wait: Callable[[], None], clock: Clock) -> float:
    """Returns the host's time of ``run`` until the GPU is done with it, s; the GPU is idle when it starts."""
    wait()
    start = clock()
    run()
    wait()
    return (clock() - start) * 1e-9


def _timer(resident: Resident, clock: Clock) -> Callable[[], float]:
    """Returns what takes the time of one resident run: by the GPU's events where the engine gives them."""
    event = resident.event
    if event is None:
        return partial(seconds_by_clock, resident.run, resident.wait, clock)
    return partial(seconds_by_events, resident.run, event, resident.wait)


def _counted(seconds: Callable[[], float], clock: DeviceClock) -> Callable[[], None]:
    return lambda: clock.add(seconds())


def _check_files(files: Sequence[Path], engine: CudaEngine | None) -> None:
    names = [file.name for file in files]
    if not names or len(set(names)) != len(names):
        raise MeasurementError("A bench needs files of different names", got=", ".join(names) or "none")
    formats = {kind.name: kind.formats for kind in ENGINES.values() if "cuda" in kind.devices}
    tensorrt = [kind for kind in ENGINES.values() if "tensorrt" in kind.devices]
    formats["tensorrt"] = tuple(name for kind in tensorrt for name in kind.formats)
    if engine is not None and engine not in formats:
        raise UnsupportedTargetError("No such engine for cuda", expected=", ".join(formats), got=engine)
    read = formats[engine] if engine else [name for names in formats.values() for name in names]
    suffixes = dict.fromkeys(FORMATS[name].suffix for name in read)
    wrong = [file.name for file in files if file.suffix not in suffixes]
    if wrong:
        raise UnsupportedTargetError(
            f"{', '.join(wrong)} cannot run on cuda{f' with {engine}' if engine else ''}",
            expected=" or ".join(f"a {suffix} file" for suffix in suffixes),
            fix="Export it again with --formats onnx,torch",
        )


def _load(files: Sequence[Path], threads: int, device: EngineDevice, gpu: Gpu, progress: Progress) -> list[_Loaded]:
    loaded = []
    for done, file in enumerate(files):
        progress("load", done, len(files), file.name)
        # the manifest first: its digest keeps damaged bytes from the engine
        manifest = read_artifact(file) if manifest_path(file).is_file() else None
        engine = gpu.open(file, threads, device)
        loaded.append(_Loaded(file, engine, manifest, manifest.sha256 if manifest else sha256_of(file)))
    progress("load", len(files), len(files))
    return loaded


def _result(item: _Loaded, threads: int, latency: Measurement, copied: Measurement) -> FileResult:
    engine, manifest = item.engine, item.manifest
    notes = (
        _HOW.get(engine.name, _HOW["onnxruntime"]),
        _HOW_COPIES,
        *((_TENSORRT,) if engine.device == "tensorrt" else ()),
    )
    return FileResult(
        file=item.file.name,
        sha256=item.sha256,
        size_bytes=item.file.stat().st_size,
        precision=manifest.precision if manifest else None,
        engine=f"{engine.name} on {engine.device}",
        engine_version=engine.version,
        threads=threads,
        batch=input_shape(engine, item.file.name)[0],
        measurements=(latency, copied),
        memory=MemoryUse(None, None, "Memory of the GPU is not measured"),
        macs=manifest.macs if manifest else None,
        notes=notes,
    )


def _no_gpu(got: str) -> UnsupportedTargetError:
    return UnsupportedTargetError(
        "There is no NVIDIA GPU to measure on", expected="nvidia-smi to list one", got=got, fix=_FIX
    )


def _bench(device: Device, request: BenchRequest, progress: Progress, *, stop: threading.Event) -> BenchResult:
    return bench_files_on_cuda(
        request.files, threads=request.threads, sampling=request.sampling, seed=request.seed, progress=progress
    )


def _check(device: Device) -> tuple[Finding, ...]:
    return (Finding(device.label, "GPU", ask_driver()),)


CUDA = Target(_bench, _check, "this machine's NVIDIA GPU", local=True)
