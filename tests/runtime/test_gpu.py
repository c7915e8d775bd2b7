"""The GPU path of LiteRT: which drivers are found, what an adapter tells, and what a worker does with files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime import ArtifactError, DataError, MeasurementError, UnsupportedTargetError, open_engine
from runtime.gpu.adapter import PROBE_INPUT, Adapter, check_hardware, selected_adapter
from runtime.gpu.drivers import DRIVER, LOADER, MANIFEST, GpuDriver, gpu_allowed, gpu_drivers, software_driver
from runtime.gpu.run import GpuWorker, find_gpu, no_gpu

from .tiny import SIZE

TFLITE_FP32 = Path(__file__).resolve().parents[1] / "golden" / "tiny-fp32.tflite"

LOG = (
    "INFO: [delegate_webgpu.cc:342] Create WebGPU environment\n"
    "I0000 environment.cc:532] Selected adapter: SwiftShader Device (Subzero), arch=swiftshader, vendor=google, "
    "backend=Vulkan, adapterType=CPU / Software\nINFO: [more]\n"
)


def with_driver(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or (DRIVER, MANIFEST, LOADER):
        (folder / name).touch()
    return folder


def drivers(root: Path, system: str = "Linux", **environ: str) -> list[str]:
    found = gpu_drivers(root / "cache", environ, root, system)
    return [driver.title.replace(str(root), "ROOT") for driver in found]


def test_a_gpu_comes_first_then_installed_and_then_fetched_software(tmp_path: Path) -> None:
    assert drivers(tmp_path) == []
    fetched = with_driver(tmp_path / "cache/0123")
    (fetched / "record.json").touch()
    with_driver(tmp_path / "cache/half")
    with_driver(tmp_path / "opt/google/chrome", DRIVER, MANIFEST)
    with_driver(tmp_path / "usr/lib/chromium", DRIVER)
    software = ["SwiftShader in ROOT/opt/google/chrome", "SwiftShader in ROOT/cache/0123"]
    assert drivers(tmp_path) == software
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD128").touch()
    assert drivers(tmp_path) == ["this machine's GPU", *software]
    assert drivers(tmp_path, POCKETVIT_GPU="software") == software
    assert drivers(tmp_path, POCKETVIT_GPU="none") == []


def test_a_driver_that_the_user_names_is_tried(tmp_path: Path) -> None:
    assert drivers(tmp_path, VK_DRIVER_FILES="/some/icd.json") == ["this machine's GPU"]


def test_other_systems_bring_their_own_interface(tmp_path: Path) -> None:
    assert drivers(tmp_path, "Darwin") == ["this machine's GPU"]
    assert drivers(tmp_path, "Darwin", POCKETVIT_GPU="software") == []


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UnsupportedTargetError, match=r"POCKETVIT_GPU cannot be read.*any, software, none.*'fast'"):
        gpu_drivers(environ={"POCKETVIT_GPU": "fast"})
    assert gpu_allowed({})
    assert not gpu_allowed({"POCKETVIT_GPU": "none"})


def test_the_folder_is_searched_for_libraries_only_where_the_system_has_no_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_driver(tmp_path)
    named = {"VK_DRIVER_FILES": str(tmp_path / MANIFEST)}
    monkeypatch.setattr("runtime.gpu.drivers.find_library", lambda name: "libvulkan.so.1")
    assert software_driver(tmp_path, {}).variables == named
    monkeypatch.setattr("runtime.gpu.drivers.find_library", lambda name: None)
    assert software_driver(tmp_path, {}).variables == {**named, "LD_LIBRARY_PATH": str(tmp_path)}
    with_others = software_driver(tmp_path, {"LD_LIBRARY_PATH": "/opt/lib"}).variables
    assert with_others["LD_LIBRARY_PATH"] == f"{tmp_path}:/opt/lib"


def test_an_adapter_is_read_from_the_log_or_from_the_loaded_libraries() -> None:
    assert selected_adapter(LOG) == Adapter("SwiftShader Device (Subzero)", "Vulkan", True)
    assert selected_adapter("", ("libvk_swiftshader.so",)) == Adapter("libvk_swiftshader.so", None, True)
    assert selected_adapter("", ("libvulkan_radeon.so",)) == Adapter("libvulkan_radeon.so", None, None)
    assert selected_adapter("") == Adapter()


def test_the_arithmetic_shows_in_what_the_unit_matrix_returns() -> None:
    half = PROBE_INPUT.astype(np.float16).astype(np.float32)
    assert not np.array_equal(half, PROBE_INPUT)
    found = [Adapter().with_arithmetic(answers[0]) for answers in (PROBE_INPUT, half, PROBE_INPUT + 1)]
    assert [adapter.arithmetic for adapter in found] == ["fp32", "fp16", None]
    assert "arithmetic not known" in found[2].described


@pytest.mark.parametrize("software", [True, None])
def test_times_are_for_gpus_alone(software: bool | None) -> None:
    check_hardware(Adapter("Card 5", "Metal", False))
    with pytest.raises(UnsupportedTargetError, match=r"answers and no times.*Card 5"):
        check_hardware(Adapter("Card 5", "Metal", software))


def test_without_a_driver_there_is_none_and_the_error_says_what_to_install() -> None:
    assert find_gpu([]) is None
    assert "apt-get install chromium libvulkan1" in str(no_gpu())


def test_a_driver_that_litert_cannot_use_is_passed_over(tmp_path: Path) -> None:
    nothing = GpuDriver("nothing", {"VK_DRIVER_FILES": str(tmp_path / "no.json")})
    with GpuWorker(nothing) as worker, pytest.raises(UnsupportedTargetError, match="LiteRT cannot compile"):
        worker.look()
    assert find_gpu([nothing]) is None


def test_a_gpu_path_that_hangs_is_ended(tmp_path: Path) -> None:
    with GpuWorker(GpuDriver("nothing"), timeout_s=0.01) as worker:
        with pytest.raises(MeasurementError, match=r"a sign of life within 0\.01 s"):
            worker.answers(tmp_path / "any.tflite", np.zeros((1, SIZE, SIZE, 3), np.float32))


@pytest.mark.gpu
def test_a_worker_names_its_adapter_and_runs_files(
    software_gpu: tuple[GpuDriver, Adapter], gpu_worker: GpuWorker, tmp_path: Path
) -> None:
    adapter = gpu_worker.look()
    assert adapter == software_gpu[1]
    assert (adapter.software, adapter.backend, adapter.arithmetic) == (True, "Vulkan", "fp32")
    assert "SwiftShader" in (adapter.name or "")
    images, seen = np.random.default_rng(0).standard_normal((3, SIZE, SIZE, 3), dtype=np.float32), []
    found = gpu_worker.answers(TFLITE_FP32, images, lambda *told: seen.append(told))
    assert found.gpu.shape == found.cpu.shape == (3, 3)
    np.testing.assert_allclose(found.gpu, found.cpu, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gpu_worker.cpu_answers(TFLITE_FP32, images), found.cpu)
    assert seen[-1][:3] == ("GPU check", 3, 3)
    assert len(gpu_worker.answers(TFLITE_FP32, images, budget_s=0.0).gpu) == 2
    with pytest.raises(DataError, match="do not fit"):
        gpu_worker.answers(TFLITE_FP32, images[:, 1:])
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"no model" * 100)
    with pytest.raises(ArtifactError, match=r"damaged\.tflite"):
        gpu_worker.answers(damaged, images)


def test_the_gpu_engine_is_the_one_of_the_gpu(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    shutil.copy(TFLITE_FP32, path)
    with pytest.raises(UnsupportedTargetError, match="does not run on gpu"):
        open_engine(path, device="gpu")
