"""Target ``gpu`` with stand-ins for the GPU: none of this has run on a real one."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.machine.state import machine_state
from device_bench.targets.base import Device
from device_bench.targets.gpu import NOT_RUN, GpuAccess, bench_files_on_gpu
from runtime import GpuParity, UnsupportedTargetError, open_engine, write_artifact
from runtime.gpu.adapter import Adapter
from tests.runtime.examples import FLOAT_IN, FLOAT_OUT, tiny_artifact
from tests.runtime.tiny import GOLDEN

CARD = Adapter("Card 5", "Vulkan", False, "fp16")


class FakeGpuEngine:
    """The CPU's engine under another name, with outputs that a GPU may get wrong."""

    name, version = "litert-gpu", "1.0"

    def __init__(self, path: Path, wrong: bool) -> None:
        self.cpu, self.wrong = open_engine(path), wrong

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cpu, name)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        outputs = self.cpu.run(batch)
        return np.roll(outputs, 1, axis=1) if self.wrong else outputs


def access(adapter: Adapter = CARD, wrong: tuple[str, ...] = ()) -> GpuAccess:
    def opened(path: Path, device: str) -> Any:
        return FakeGpuEngine(path, path.name in wrong) if device == "gpu" else open_engine(path)

    ticks = itertools.count(0, 1_000_000)
    return GpuAccess(lambda: adapter, opened, lambda: next(ticks), machine_state)


def file_at(folder: Path, name: str, gpu: GpuParity | None = None, manifest: bool = True) -> Path:
    path = folder / name
    shutil.copy(GOLDEN / "tiny-fp32.tflite", path)
    if manifest:
        known = tiny_artifact(path, FLOAT_IN, FLOAT_OUT, calibration=None)
        write_artifact(path, replace(known, parity=replace(known.parity, gpu=gpu)))
    return path


def request(*files: Path) -> BenchRequest:
    return BenchRequest(files, target="gpu", sampling=Sampling.exactly(3))


def test_files_are_timed_and_the_result_says_where_and_how_right_they_were(tmp_path: Path) -> None:
    result = bench_files_on_gpu(request(file_at(tmp_path, "a.tflite", manifest=False)), access=access())
    (found,) = result.files
    assert (found.engine, found.engine_version) == ("litert-gpu on Card 5", "1.0")
    assert found.latency is not None
    assert len(found.latency.values) == 3
    assert any("cosine of 1.000000" in note for note in found.notes)
    assert result.notes == ("GPU: Card 5, hardware, Vulkan, fp16", NOT_RUN)


@pytest.mark.parametrize("software", [True, None])
def test_a_driver_that_computes_on_the_cpu_is_never_timed(software: bool | None, tmp_path: Path) -> None:
    slow = access(replace(CARD, software=software))
    with pytest.raises(UnsupportedTargetError, match="answers and no times"):
        bench_files_on_gpu(request(file_at(tmp_path, "a.tflite", manifest=False)), access=slow)


def test_files_that_are_wrong_on_gpus_are_failures_and_the_others_are_timed(tmp_path: Path) -> None:
    known = file_at(tmp_path, "known.tflite", GpuParity(driver="a", wrong="Its cosine is 0.8."))
    found, right = file_at(tmp_path, "found.tflite"), file_at(tmp_path, "right.tflite")
    result = bench_files_on_gpu(request(known, found, right), access=access(wrong=("found.tflite",)))
    assert [file.file for file in result.files] == ["right.tflite"]
    assert [failure.file for failure in result.failures] == ["known.tflite", "found.tflite"]
    assert "Its cosine is 0.8" in result.failures[0].what
    assert "on this GPU are wrong" in result.failures[1].what


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UnsupportedTargetError, match=r"a\.onnx cannot run on this target"):
        bench_files_on_gpu(request(tmp_path / "a.onnx"), access=access())


def test_a_machine_without_a_gpu_says_what_to_install(tmp_path: Path) -> None:
    device, asked = Device("gpu"), request(file_at(tmp_path, "a.tflite", manifest=False))
    with pytest.raises(UnsupportedTargetError, match="no graphics driver here that LiteRT can use"):
        device.target.bench(device, asked, lambda *told: None, stop=None)  # type: ignore[arg-type]
