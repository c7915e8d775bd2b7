"""The process in which LiteRT runs a file on a GPU: a crash in it ends nothing else."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.engines import Engine, open_engine
from runtime.engines.litert_gpu import LiteRtGpuEngine
from runtime.errors import DataError
from runtime.session import dequantise, quantise
from runtime.worker.child import Reporter, serve

from .adapter import PROBE, PROBE_INPUT, Adapter, selected_adapter

_DRIVER = re.compile(r"libvk_\w+\.so|libGLX_nvidia\.so|libvulkan_\w+\.so")
_STAGE = "GPU check"
_LEAST = 2


def look(reporter: Reporter) -> Adapter:
    """Runs the probe and returns the adapter that LiteRT chose, with its arithmetic.

    Raises:
        UnsupportedTargetError: LiteRT finds no adapter that it can use.
    """
    reporter.doing("LiteRT", "looking for a GPU")
    before = _log_size()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "probe.tflite"
        path.write_bytes(PROBE)
        answers = LiteRtGpuEngine(path).run(PROBE_INPUT)
    return selected_adapter(_log_since(before), _libraries()).with_arithmetic(answers)


def answers(
    reporter: Reporter, model: str, images: str, cpu: str, gpu: str, name: str, seconds: float
) -> dict[str, Any]:
    """Runs ``model`` on every image, on the CPU and on the GPU, and writes both outputs.

    Args:
        reporter: is called after every image.
        model: a ``.tflite`` file of one image at a time.
        images: path of the preprocessed images, ``.npy`` ``(N, H, W, C)`` float32.
        cpu: path for the outputs on the CPU in real units, ``.npy`` ``(N, …)`` float32.
        gpu: path for those on the GPU.
        name: of the file, for messages.
        seconds: no image begins on the GPU after this time, s, once there are two.

    Returns:
        ``whole``, whether the GPU computed every operator, and ``images``, the number of images that ran.

    Raises:
        UnsupportedTargetError: there is no GPU, or LiteRT cannot compile the file for it.
        ArtifactError: the file cannot be loaded.
        DataError: the images do not fit the file.
    """
    engine, raw = _opened(reporter, model, images, name)
    wanted = [_real(engine.run(batch), engine.output_qparams) for batch in raw]
    reporter.doing("LiteRT", "compiling for the GPU")
    reporter.progress(_STAGE, 0, len(raw), f"{name}: compiling")
    compiled, found = LiteRtGpuEngine(Path(model)), list[npt.NDArray[np.float32]]()
    until = time.monotonic() + seconds
    reporter.doing("LiteRT", "running on the GPU")
    for batch in raw:
        if len(found) >= _LEAST and time.monotonic() > until:
            break
        found.append(_real(compiled.run(batch), engine.output_qparams))
        reporter.progress(_STAGE, len(found), len(raw), name)
    np.save(cpu, np.concatenate(wanted[: len(found)]))
    np.save(gpu, np.concatenate(found))
    return {"whole": compiled.whole, "images": len(found)}


def cpu_answers(reporter: Reporter, model: str, images: str, cpu: str, name: str) -> None:
    """Runs ``model`` on every image on the CPU and writes the outputs; the arguments are those of ``answers``."""
    engine, raw = _opened(reporter, model, images, name)
    np.save(cpu, np.concatenate([_real(engine.run(batch), engine.output_qparams) for batch in raw]))


def _opened(reporter: Reporter, model: str, images: str, name: str) -> tuple[Engine, list[npt.NDArray[Any]]]:
    """Returns a file in LiteRT's CPU engine, and the images as it takes them."""
    reporter.doing("LiteRT", "running on the CPU")
    engine, pictures = open_engine(Path(model)), np.load(images)
    if engine.input_shape != (1, *pictures.shape[1:]):
        raise DataError(f"The images do not fit {name}", expected=engine.input_shape, got=(1, *pictures.shape[1:]))
    return engine, [_raw(picture[None], engine.input_qparams, engine.input_dtype) for picture in pictures]


def _raw(images: npt.NDArray[np.float32], qparams: tuple[float, int] | None, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return images.astype(dtype, copy=False) if qparams is None else quantise(images, *qparams, dtype.name)


def _real(outputs: npt.NDArray[Any], qparams: tuple[float, int] | None) -> npt.NDArray[np.float32]:
    return outputs.astype(np.float32) if qparams is None else dequantise(outputs, *qparams)


def _log_size() -> int:
    """Returns the number of bytes that this process has written to stderr; 0 where that is no file."""
    return os.fstat(2).st_size if stat.S_ISREG(os.fstat(2).st_mode) else 0


def _log_since(start: int) -> str:
    """Returns what this process has written to stderr after ``start``; empty where that is no file."""
    size = _log_size() - start
    return os.pread(2, size, start).decode(errors="replace") if size > 0 else ""


def _libraries() -> tuple[str, ...]:
    """Returns the graphics drivers in this process's memory map, which names them whatever the variables asked for."""
    try:
        return tuple(sorted(set(_DRIVER.findall(Path("/proc/self/maps").read_text(encoding="utf-8")))))
    except OSError:  # only Linux has this file
        return ()


if __name__ == "__main__":
    raise SystemExit(serve({"look": look, "answers": answers, "cpu_answers": cpu_answers}))
