"""Target ``cuda`` with stand-ins for the GPU: none of this has run on a real one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_bench.documents.measurement import Sampling
from device_bench.machine.state import machine_state
from device_bench.targets.cuda import (
    WITH_COPIES,
    DeviceClock,
    Gpu,
    ask_driver,
    bench_files_on_cuda,
    seconds_by_clock,
    seconds_by_events,
)
from runtime import MeasurementError, UnsupportedTargetError
from runtime.engines.base import Event, Resident

DRIVER = "Example GPU 9000, 999.01, 41, 1500 MHz, 0 %"


@dataclass
class FakeGpu:
    """A GPU with a clock of its own: work takes ``busy_ms`` when it is waited for, and launching takes none."""

    busy_ms: float = 2.0
    calls: list[str] = field(default_factory=list)
    now_ms: float = 0.0
    queue: list[Callable[[], None]] = field(default_factory=list)
    host_ns: int = 0

    def run(self) -> None:
        self.calls.append("run")
        self.queue.append(self._work)

    def _work(self) -> None:
        self.now_ms += self.busy_ms
        self.host_ns += round(self.busy_ms * 1e6)

    def wait(self) -> None:
        self.calls.append("wait")
        while self.queue:
            self.queue.pop(0)()

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def clock(self) -> int:
        self.calls.append("clock")
        return self.host_ns


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.stamp_ms = gpu, float("nan")

    def record(self) -> None:
        self.gpu.calls.append("record")
        self.gpu.queue.append(self._stamp)

    def _stamp(self) -> None:
        self.stamp_ms = self.gpu.now_ms

    def elapsed_time(self, end: FakeEvent) -> float:
        self.gpu.calls.append("elapsed_time")
        return end.stamp_ms - self.stamp_ms


class FakeEngine:
    version, input_name, output_name = "1.0", "image", "logits"
    input_shape, output_shape = (-1, 3, 4, 4), (-1, 2)
    input_dtype = output_dtype = np.dtype("f4")
    input_qparams = output_qparams = None

    def __init__(self, gpu: FakeGpu, name: Any, device: Any, copy_ms: float) -> None:
        self.gpu, self.name, self.device, self.copy_ms = gpu, name, device, copy_ms

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self.gpu.run()
        self.gpu.wait()
        self.gpu.host_ns += round(self.copy_ms * 1e6)
        return np.zeros((len(batch), 2), np.float32)

    def resident(self, batch: npt.NDArray[Any]) -> Resident:
        event: Callable[[], Event] | None = self.gpu.event if self.name == "torch" else None
        return Resident(self.gpu.run, self.gpu.wait, lambda: np.zeros((len(batch), 2), np.float32), event)


def fake(hardware: FakeGpu, opened: list[tuple[str, int, str]] | None = None, copy_ms: float = 3.0) -> Gpu:
    def open_(path: Path, threads: int, device: Any) -> Any:
        if opened is not None:
            opened.append((path.name, threads, device))
        return FakeEngine(hardware, "torch" if path.suffix == ".pt2" else "onnxruntime", device, copy_ms)

    return Gpu(lambda: DRIVER, open_, hardware.clock, machine_state)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("a.onnx", "b.pt2"):
        (tmp_path / name).write_bytes(name.encode())
    return [tmp_path / "a.onnx", tmp_path / "b.pt2"]


def test_events_are_recorded_around_the_run_and_read_after_the_gpu_is_past_both() -> None:
    gpu = FakeGpu(busy_ms=2.5)
    assert seconds_by_events(gpu.run, gpu.event, gpu.wait) == pytest.approx(2.5e-3)
    assert gpu.calls == ["record", "run", "record", "wait", "elapsed_time"]


def test_events_that_are_not_waited_for_tell_nothing() -> None:
    gpu = FakeGpu()
    assert np.isnan(seconds_by_events(gpu.run, gpu.event, lambda: None))


def test_the_clock_runs_from_an_idle_gpu_until_it_is_done() -> None:
    gpu = FakeGpu(busy_ms=4)
    gpu.run()  # what was queued before must not count
    assert seconds_by_clock(gpu.run, gpu.wait, gpu.clock) == pytest.approx(4e-3)
    assert gpu.calls == ["run", "wait", "clock", "run", "wait", "clock"]


def test_a_clock_without_waiting_would_miss_the_work() -> None:
    gpu = FakeGpu(busy_ms=4)
    assert seconds_by_clock(gpu.run, lambda: None, gpu.clock) == 0


def test_the_device_clock_counts_only_what_it_is_told() -> None:
    clock = DeviceClock()
    clock.add(0.25)
    clock.add(1e-9)
    assert clock() == 250_000_001
    for wrong in (-1e-9, float("nan"), float("inf")):
        with pytest.raises(MeasurementError, match="impossible time"):
            clock.add(wrong)


def test_a_bench_keeps_both_times_of_every_file(files: list[Path]) -> None:
    hardware, opened = FakeGpu(busy_ms=2), []  # type: FakeGpu, list[tuple[str, int, str]]
    result = bench_files_on_cuda(files, threads=3, sampling=Sampling.exactly(4), gpu=fake(hardware, opened))
    assert opened == [("a.onnx", 3, "cuda"), ("b.pt2", 3, "cuda")]
    assert (result.target, [file.file for file in result.files]) == ("cuda", ["a.onnx", "b.pt2"])
    for file, engine in zip(result.files, ("onnxruntime on cuda", "torch on cuda"), strict=True):
        assert (file.engine, file.threads, file.batch) == (engine, 3, 1)
        latency, copied = file.measurements
        assert (latency.metric, copied.metric) == ("latency", WITH_COPIES)
        assert latency.values == pytest.approx((2e-3,) * 4)
        assert copied.values == pytest.approx((5e-3,) * 4)
        assert file.memory.peak_rss_bytes is None
    assert "host's time" in result.files[0].notes[0]
    assert "CUDA events" in result.files[1].notes[0]
    assert result.notes == (f"GPU before: {DRIVER}", f"GPU after: {DRIVER}")
    assert "elapsed_time" in hardware.calls


def test_tensorrt_is_asked_for_by_name_and_says_what_it_rounds(files: list[Path]) -> None:
    opened: list[tuple[str, int, str]] = []
    gpu = fake(FakeGpu(), opened)
    result = bench_files_on_cuda(files[:1], sampling=Sampling.exactly(1), engine="tensorrt", gpu=gpu)
    assert opened == [("a.onnx", 1, "tensorrt")]
    assert result.files[0].engine == "onnxruntime on tensorrt"
    assert "TF32" in result.files[0].notes[-1]


def test_the_budget_is_of_measured_time(files: list[Path]) -> None:
    sampling = Sampling(min_samples=1, max_samples=100, seconds=0.05, max_warmup=1)
    result = bench_files_on_cuda(files[1:], sampling=sampling, gpu=fake(FakeGpu(busy_ms=2), copy_ms=6))
    # two runners share a budget of 0.1 s; a round takes six runs of 2 ms of it, and three of 8 ms
    assert len(result.files[0].measurements[0].values) == 3


@pytest.mark.parametrize(
    ("names", "engine", "said"),
    [
        (["a.tflite"], None, r"a\.tflite cannot run on cuda\. Expected a \.onnx file or a \.pt2 file"),
        (["a.pt2"], "tensorrt", r"a\.pt2 cannot run on cuda with tensorrt\. Expected a \.onnx file"),
        (["a.onnx"], "torch", r"a\.onnx cannot run on cuda with torch\. Expected a \.pt2 file"),
        (["a.onnx"], "litert", "No such engine for cuda"),
    ],
)
def test_a_format_that_does_not_run_there(tmp_path: Path, names: list[str], engine: Any, said: str) -> None:
    opened: list[tuple[str, int, str]] = []
    with pytest.raises(UnsupportedTargetError, match=said) as caught:
        bench_files_on_cuda([tmp_path / name for name in names], engine=engine, gpu=fake(FakeGpu(), opened))
    assert caught.value.exit_code == 2
    assert not opened


def test_files_of_the_same_name(tmp_path: Path) -> None:
    for wrong in ([], [tmp_path / "a.onnx", tmp_path / "sub" / "a.onnx"]):
        with pytest.raises(MeasurementError, match="different names"):
            bench_files_on_cuda(wrong, gpu=fake(FakeGpu()))


def test_without_a_gpu_nothing_is_opened(files: list[Path]) -> None:
    hardware, opened = FakeGpu(), []  # type: FakeGpu, list[tuple[str, int, str]]

    def none() -> str:
        raise UnsupportedTargetError("There is no NVIDIA GPU to measure on")

    gpu = fake(hardware, opened)
    with pytest.raises(UnsupportedTargetError, match="no NVIDIA GPU"):
        bench_files_on_cuda(files, gpu=Gpu(none, gpu.open, gpu.clock, gpu.machine))
    assert (opened, hardware.calls) == ([], [])


def test_a_run_that_fails_names_its_file(files: list[Path]) -> None:
    gpu, counter = fake(FakeGpu()), itertools.count()

    class Failing(FakeEngine):
        def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if next(counter) > 2:
                raise RuntimeError("out of memory")
            return super().run(batch)

    broken = Gpu(gpu.ask_driver, lambda *_: Failing(FakeGpu(), "torch", "cuda", 1), gpu.clock, gpu.machine)  # type: ignore[arg-type,return-value]
    with pytest.raises(MeasurementError, match=r"b\.pt2 with copies failed .* out of memory"):
        bench_files_on_cuda(files[1:], sampling=Sampling.exactly(9), gpu=broken)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'NVIDIA-SMI has failed' >&2; exit 9", "nvidia-smi says: NVIDIA-SMI has failed"),
        ("exit 0", "nvidia-smi says: nothing"),
        (None, "nvidia-smi does not answer"),
    ],
)
def test_a_machine_without_a_gpu_is_told_what_to_install(tmp_path: Path, script: str | None, said: str) -> None:
    with pytest.raises(UnsupportedTargetError, match=said) as caught:
        ask_driver(program(tmp_path, script))
    assert "onnxruntime-gpu" in str(caught.value)
    assert "CUDA build of torch" in str(caught.value)


def test_the_driver_speaks_of_the_first_gpu(tmp_path: Path) -> None:
    assert ask_driver(program(tmp_path, f"test $1 = --id=0 && echo '{DRIVER}'")) == DRIVER


def program(folder: Path, script: str | None) -> str:
    """Returns where a program of that script stands, or where none does."""
    path = folder / "nvidia-smi"
    if script is not None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return str(path)
