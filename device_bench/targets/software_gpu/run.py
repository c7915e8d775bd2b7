"""Runs a ``.tflite`` file on LiteRT's GPU path over the software GPU, and compares its answers with the CPU's."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import Engine, MeasurementError, open_engine
from runtime.worker.parent import Worker, WorkerError, python_module

from .driver import SoftwareVulkan

TIMEOUT_S = 900.0
"""The default time for a file with all its images, s: a GPU's parallel work is done here one piece after another."""

_COMMAND = python_module("device_bench.targets.software_gpu.child")


@dataclass(frozen=True)
class GpuRun:
    """The outputs of a file on the GPU path.

    Attributes:
        outputs: ``(N, classes)`` in the file's own type.
        whole: whether the GPU computed all of its operators.
        drivers: the Vulkan drivers that were loaded.
    """

    outputs: npt.NDArray[Any]
    whole: bool
    drivers: tuple[str, ...]


@dataclass(frozen=True)
class GpuParity:
    """How the answers of the GPU path compare with those of the CPU.

    Attributes:
        cosines: of the logits of each image, ``(N,)`` float64; 1 is the same direction.
        max_abs: the largest difference of a logit.
        max_rel: the same over the largest logit of the CPU.
        top1_agreement: share of images with the same top-1, 0..1.
        whole: whether the GPU computed all of the file's operators.
        drivers: the Vulkan drivers that were loaded.
    """

    cosines: npt.NDArray[np.float64]
    max_abs: float
    max_rel: float
    top1_agreement: float
    whole: bool
    drivers: tuple[str, ...]


def gpu_parity(
    path: Path, images: npt.NDArray[np.float32], vulkan: SoftwareVulkan, timeout_s: float = TIMEOUT_S
) -> GpuParity:
    """Runs a file on the CPU and on the GPU path and returns how the answers compare.

    Args:
        path: a ``.tflite`` file of one image at a time.
        images: preprocessed, ``(N, H, W, C)``, N at least 1; quantised here where the file takes integers.
        vulkan: the software GPU.
        timeout_s: for all images, s.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ArtifactError: the file cannot be loaded.
        DataError: the images do not fit the file.
        MeasurementError: the GPU path refuses the file, or crashes, or takes too long.
    """
    engine = open_engine(path)
    raw = _raw(images, engine)[:, None]
    on_cpu = np.concatenate([engine.run(batch) for batch in raw])
    run = run_on_gpu(path, raw, on_cpu.shape[1], on_cpu.dtype, vulkan, timeout_s)
    wanted, got = (_real(outputs, engine.output_qparams) for outputs in (on_cpu, run.outputs))
    sizes = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    most = float(np.abs(got - wanted).max())
    return GpuParity(
        cosines=(wanted * got).sum(axis=1) / np.maximum(sizes, 1e-30),
        max_abs=most,
        max_rel=most / max(float(np.abs(wanted).max()), 1e-30),
        top1_agreement=float((wanted.argmax(axis=1) == got.argmax(axis=1)).mean()),
        whole=run.whole,
        drivers=run.drivers,
    )


def run_on_gpu(
    path: Path,
    batches: npt.NDArray[Any],
    length: int,
    dtype: np.dtype[Any],
    vulkan: SoftwareVulkan,
    timeout_s: float = TIMEOUT_S,
) -> GpuRun:
    """Runs a file on LiteRT's GPU path in a worker process.

    Args:
        path: a ``.tflite`` file of one input and one output.
        batches: inputs in the file's own type, ``(N, 1, H, W, C)``.
        length: values of one output.
        dtype: of the output.
        vulkan: the software GPU.
        timeout_s: for all images, s.

    Raises:
        MeasurementError: it refuses the file, or crashes, or takes too long.
    """
    what = f"LiteRT cannot run {path.name} on the GPU path"
    with (
        tempfile.TemporaryDirectory() as scratch,
        Worker(_COMMAND, silence_s=timeout_s, env=vulkan.variables()) as worker,
    ):
        inside, outside = Path(scratch) / "batches.npy", Path(scratch) / "outputs.npy"
        np.save(inside, batches)
        request = {
            "model": str(path.resolve()),
            "batches": str(inside),
            "outputs": str(outside),
            "length": length,
            "dtype": np.dtype(dtype).name,
        }
        try:
            found = worker.run("run", request).checked()
        except WorkerError as failure:
            if failure.hung:
                raise MeasurementError(what, expected=f"an end within {timeout_s:g} s") from None
            last = failure.last_line[:300] or "no message"
            raise MeasurementError(what, got=f"{failure.how}: {last}") from None
        return GpuRun(np.load(outside), bool(found["whole"]), tuple(found["drivers"]))


def _raw(images: npt.NDArray[np.float32], engine: Engine) -> npt.NDArray[Any]:
    """Returns images as the file takes them."""
    if engine.input_qparams is None:
        return images.astype(engine.input_dtype, copy=False)
    scale, zero_point = engine.input_qparams
    limits = np.iinfo(engine.input_dtype)
    stored: npt.NDArray[Any] = np.clip(np.rint(images / np.float32(scale)) + zero_point, limits.min, limits.max)
    return stored.astype(engine.input_dtype)


def _real(outputs: npt.NDArray[Any], qparams: tuple[float, int] | None) -> npt.NDArray[np.float64]:
    scale, zero_point = qparams or (1.0, 0)
    real: npt.NDArray[np.float64] = (outputs.astype(np.float64) - zero_point) * scale
    return real
