"""The parts of ``check_gpu.py``, each a process: it writes what it found to a file as it goes on.

A part returns its result, or raises ``NotRunError`` where something that it needs is missing. It hands every piece of
its result to ``keep`` as soon as it has it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "ai-edge-litert", "nvidia-ml-py")
OURS = ("runtime", "compress", "export", "device_bench", "pocketvit", "benchmarks")
WIDTHS = ((384, 388), (384, 380), (768, 772), (1536, 1532))
"""Widths of a product to compare: a multiple of 8, and one that is 4 more or less."""

_ROWS = 64 * 197
_SOFTWARE = re.compile(r"swiftshader|lavapipe|llvmpipe|libvulkan_lvp")
_DRIVER = re.compile(
    r"[\w.-]*(?:libvk_\w+|libvulkan_(?!\.so)\w+|libGLX_nvidia|libnvidia-vulkan\w*|amdvlk\w*)[\w.-]*\.so"
)

Keep = Callable[[dict[str, Any]], None]


class NotRunError(Exception):
    """Something that a part needs is missing; the text says what."""


def machine(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Describes the machine and what is installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    found: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "gpu": None,
    }
    keep(found)
    from device_bench.targets.cuda import ask_driver

    try:
        return {**found, "gpu": ask_driver()}
    except Exception as error:
        return {**found, "gpu_reason": str(error)}


def litert_gpu(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Runs .tflite files by LiteRT's CompiledModel on the GPU: answers beside the CPU's, and on hardware times."""
    import numpy as np
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    from device_bench.timing.stats import median_interval
    from export.formats.tflite import timing_bytes
    from runtime import encode, open_engine

    found: dict[str, Any] = {"files": {}, "weights": "random"}
    with tempfile.TemporaryDirectory() as scratch:
        for name, plan in (("default", _default_plan()), ("vit-s-224", _vit_s())):
            for precision in ("fp32", "int8"):
                file = Path(scratch) / f"{name}.{precision}.tflite"
                file.write_bytes(timing_bytes(plan, precision))  # type: ignore[arg-type]
                engine = open_engine(file)
                image = np.random.default_rng(0).standard_normal(engine.input_shape, dtype=np.float32)
                on_cpu = np.asarray(engine.run(image), np.float64).ravel()
                try:
                    model: Any = CompiledModel.from_file(str(file), hardware_accel=HardwareAccelerator.GPU)
                except Exception as error:
                    said = " ".join(str(error).split())
                    raise NotRunError(f"LiteRT finds no GPU, or no Vulkan driver: {said}") from error
                inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)

                def run(model: Any = model, inputs: Any = inputs, outputs: Any = outputs, image: Any = image) -> Any:
                    inputs[0].write(image)
                    model.run_by_index(0, inputs, outputs)
                    return outputs[0].read(plan.num_classes, np.dtype(np.float32))  # noqa: B023

                on_gpu = np.asarray(run(), np.float64).ravel()
                drivers = sorted({match[0] for match in _DRIVER.finditer(Path("/proc/self/maps").read_text())})
                hardware = bool(drivers) and not any(_SOFTWARE.search(driver) for driver in drivers)
                found["drivers"] = drivers
                whole = bool(model.is_fully_accelerated())
                own = {
                    "whole": whole,
                    "cosine": float(on_cpu @ on_gpu / np.linalg.norm(on_cpu) / np.linalg.norm(on_gpu)),
                }
                if hardware and whole:
                    own["with_copies_s"] = encode(median_interval(_times(run, min(5.0, limit_s / 20))))
                else:
                    found["no_times"] = f"no GPU computed all of it, or it is software: {', '.join(drivers) or 'none'}"
                found["files"][file.name] = own
                keep(found)
    if not found["drivers"]:
        raise NotRunError("LiteRT loaded no GPU's driver")
    return found


def training(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Times a training step of ViT-S at 224 px, and compares its loss with the CPU's."""
    torch = _cuda()
    from compress.model.vit import SlicedViT

    def loss_of(model: Any, images: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(images).float(), labels)

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = SlicedViT(_vit_s())
    images, labels = torch.randn(64, 3, 224, 224, generator=generator), torch.arange(64)
    with torch.no_grad():
        on_cpu = float(loss_of(model, images[:8], labels[:8]))
        model, images, labels = model.cuda(), images.cuda(), labels.cuda()
        on_gpu = float(loss_of(model, images[:8], labels[:8]))
    found: dict[str, Any] = {"loss_cpu": on_cpu, "loss_gpu": on_gpu, "batch": 64}
    keep(found)
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        optimiser, losses, seconds = torch.optim.AdamW(model.parameters(), lr=1e-4), [], []
        end = time.monotonic() + limit_s / 4
        while len(losses) < 30 and (len(losses) < 8 or time.monotonic() < end):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
                loss = loss_of(model, images, labels)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            after.record()
            torch.cuda.synchronize()
            losses.append(float(loss.detach()))
            seconds.append(before.elapsed_time(after) * 1e-3)
        found[name] = {
            "step_s": _median(seconds[3:]),
            "images_per_s": 64 / _median(seconds[3:]),
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "peak_bytes": int(torch.cuda.max_memory_allocated()),
        }
        keep(found)
    return found


def tensor_cores(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Times products whose widths are multiples of 8 beside products whose widths are 4 more or less, per MAC."""
    torch = _cuda()
    from device_bench.timing.stats import ratio_of_medians
    from runtime import encode

    torch.backends.cuda.matmul.allow_tf32 = True
    found: dict[str, Any] = {"rows": _ROWS, "time": "per multiply-accumulate, over that of the multiple of 8"}
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16), ("tf32", torch.float32)):
        found[name] = {}
        for aligned, other in WIDTHS:
            seconds: dict[int, list[float]] = {aligned: [], other: []}
            factors = {
                width: (
                    torch.randn(_ROWS, width, device="cuda", dtype=dtype),
                    torch.randn(width, width, device="cuda", dtype=dtype),
                )
                for width in seconds
            }
            end = time.monotonic() + limit_s / 20
            rounds = 0
            while rounds < 20 or (rounds < 500 and time.monotonic() < end):
                for width, (left, right) in factors.items():
                    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    before.record()
                    torch.matmul(left, right)
                    after.record()
                    torch.cuda.synchronize()
                    if rounds >= 5:
                        seconds[width].append(before.elapsed_time(after) * 1e-3 / (_ROWS * width**2))
                rounds += 1
            ratio = ratio_of_medians(seconds[other], seconds[aligned])
            rate = 2 / _median(seconds[aligned])
            found[name][f"{other} over {aligned}"] = {"ratio": encode(ratio), "flops_of_aligned": rate}
            keep(found)
    return found


def torch_bench(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Measures .pt2 files as ``bench --target cuda`` does, and images per second in batches."""
    torch = _cuda()
    from compress.model.vit import SlicedViT
    from export.formats.torch import write_torch

    found = _benched(keep, limit_s / 2, "pt2", write_torch, None)
    model, images = SlicedViT(_vit_s()).eval().cuda(), torch.randn(64, 3, 224, 224, device="cuda")
    found["batches_of_64"] = {}
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        cast, inputs = model.to(dtype), images.to(dtype)

        def run(cast: Any = cast, inputs: Any = inputs) -> None:
            with torch.no_grad():
                cast(inputs)
            torch.cuda.synchronize()

        found["batches_of_64"][name] = {"images_per_s": 64 / _median(_times(run, limit_s / 15))}
        keep(found)
    return found


def onnxruntime_bench(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Measures .onnx files by ONNX Runtime's CUDA provider, as ``bench --target cuda`` does."""
    _check_provider("CUDAExecutionProvider")
    return _benched(keep, limit_s / 2, "onnx", _write_onnx, "onnxruntime")


def tensorrt_bench(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Measures .onnx files by ONNX Runtime's TensorRT provider."""
    _check_provider("TensorrtExecutionProvider")
    return _benched(keep, limit_s / 4, "onnx", _write_onnx, "tensorrt")


def energy(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Measures the energy of an image by NVML."""
    torch = _cuda()
    from compress.model.vit import SlicedViT
    from device_bench.energy.measure import measure_energy
    from device_bench.energy.nvml import find_nvml
    from device_bench.energy.source import NoSource
    from runtime import encode

    source = find_nvml()
    if isinstance(source, NoSource):
        raise NotRunError(source.reason)
    model, images = SlicedViT(_vit_s()).eval().cuda().half(), torch.randn(64, 3, 224, 224, device="cuda").half()

    def run() -> None:
        with torch.no_grad():
            model(images)
        torch.cuda.synchronize()

    return {"model": "ViT-S, 224 px, float16, batches of 64", "energy": encode(measure_energy(run, 64, source))}


def nccl(keep: Keep, limit_s: float) -> dict[str, Any]:
    """Joins a group of one rank over nccl and checks what it computes."""
    torch = _cuda()
    from torch import distributed

    if not distributed.is_available() or not distributed.is_nccl_available():
        raise NotRunError("torch was built without nccl")
    with tempfile.TemporaryDirectory() as scratch:
        place = f"file://{scratch}/ranks"
        distributed.init_process_group("cpu:gloo,cuda:nccl", init_method=place, rank=0, world_size=1)
        value = torch.arange(1024, device="cuda", dtype=torch.float32)
        summed, parts = value.clone(), [torch.empty_like(value)]
        distributed.all_reduce(summed)
        distributed.broadcast(summed, 0)
        distributed.all_gather(parts, value)
        distributed.barrier()
        torch.cuda.synchronize()
        right = bool(torch.equal(summed, value) and torch.equal(parts[0], value))
        distributed.destroy_process_group()
    if not right:
        raise AssertionError("nccl computed something else than the rank's own tensor")
    return {"nccl": ".".join(map(str, torch.cuda.nccl.version())), "ranks": 1, "right": right}


PARTS: dict[str, Callable[[Keep, float], dict[str, Any]]] = {
    "machine": machine,
    "litert-gpu": litert_gpu,
    "training": training,
    "tensor-cores": tensor_cores,
    "torch": torch_bench,
    "onnxruntime": onnxruntime_bench,
    "tensorrt": tensorrt_bench,
    "energy": energy,
    "nccl": nccl,
}


def _benched(keep: Keep, budget_s: float, suffix: str, write: Any, engine: str | None) -> dict[str, Any]:
    """Writes two models, compares their answers on the GPU with the CPU's, and measures them on the GPU."""
    import numpy as np
    import torch

    from compress.model.vit import SlicedViT
    from device_bench.documents.measurement import Sampling
    from device_bench.targets.cuda import bench_files_on_cuda
    from device_bench.timing.inputs import random_input
    from device_bench.timing.stats import median_interval
    from runtime import encode, open_device_engine, open_engine

    found: dict[str, Any] = {"cosine": {}, "weights": "random"}
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for name, plan in (("default", _default_plan()), ("vit-s-224", _vit_s())):
            torch.manual_seed(0)
            files.append(Path(scratch) / f"{name}.{suffix}")
            write(SlicedViT(plan).eval(), files[-1])
            device: Any = "tensorrt" if engine == "tensorrt" else "cuda"
            on_gpu, on_cpu = open_device_engine(files[-1], None, 1, device), open_engine(files[-1])
            batch = random_input(on_cpu, files[-1].name, 0)
            one, other = (np.asarray(own.run(batch), np.float64).ravel() for own in (on_cpu, on_gpu))
            found["cosine"][name] = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            keep(found)
        result = bench_files_on_cuda(
            files, sampling=Sampling(seconds=min(4.0, budget_s / 8)), engine=engine if suffix == "onnx" else None
        )
    for file in result.files:
        found[file.file] = {own.metric: encode(median_interval(own.values)) for own in file.measurements}
    return found


def _write_onnx(model: Any, path: Path) -> None:
    from export.formats.onnx import write_onnx

    write_onnx(model, path)


def _check_provider(name: str) -> None:
    import onnxruntime

    if name not in onnxruntime.get_available_providers():
        raise NotRunError(f"ONNX Runtime {onnxruntime.__version__} was built without {name}")
    _cuda()


def _cuda() -> Any:
    import torch

    if not torch.cuda.is_available():
        raise NotRunError(f"torch {torch.__version__} sees no CUDA GPU")
    return torch


def _default_plan() -> Any:
    from runtime import BlockPlan, ShapePlan

    return ShapePlan((32, 32), (8, 8), 1, 10, 96, (BlockPlan(3, 32, 32, 384),) * 6, 32**-0.5)


def _vit_s() -> Any:
    from runtime import BlockPlan, ShapePlan

    return ShapePlan((224, 224), (16, 16), 3, 1000, 384, (BlockPlan(6, 64, 64, 1536),) * 12, 0.125)


def _times(run: Callable[[], Any], seconds: float) -> list[float]:
    """Returns the times of ``run``, s, after three runs that do not count, for some seconds and at least ten runs."""
    for _ in range(3):
        run()
    found: list[float] = []
    end = time.monotonic() + seconds
    while len(found) < 10 or (time.monotonic() < end and len(found) < 10_000):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main(name: str, out: Path, limit_s: float) -> None:
    """Runs a part and writes its state, reason and result to ``out``."""

    def write(state: str, reason: str | None, result: dict[str, Any] | None) -> None:
        beside = out.with_name(f".{out.name}.new")
        beside.write_text(json.dumps({"state": state, "reason": reason, "result": result}), encoding="utf-8")
        beside.replace(out)

    kept: dict[str, Any] = {}

    def keep(result: dict[str, Any]) -> None:
        kept.clear()
        kept.update(result)
        write("running", None, result)

    try:
        result = PARTS[name](keep, limit_s)
    except NotRunError as error:
        write("not run", str(error), kept or None)
    except ImportError as error:
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        state = "failed" if missing in OURS else "not run"
        write(state, str(error), kept or None)
    except Exception as error:
        write("failed", f"{type(error).__name__}: {error}"[:500], kept or None)
    else:
        write("done", None, result)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
