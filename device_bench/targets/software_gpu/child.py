"""The process in which LiteRT runs a file on a GPU: a crash in it ends nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from runtime.worker.child import Reporter, serve

_DRIVER = re.compile(r"libvk_\w+\.so|libGLX_nvidia\.so|libvulkan_\w+\.so")


def run(reporter: Reporter, model: str, batches: str, outputs: str, length: int, dtype: str) -> dict[str, Any]:
    """Runs ``model`` on every batch of one ``.npy`` file and writes its outputs to another.

    Args:
        reporter: unused.
        model: a ``.tflite`` file of one input and one output.
        batches: path of the inputs ``(N, …)`` in the file's own type.
        outputs: path for the outputs ``(N, length)``.
        length: values of one output.
        dtype: type of the output.

    Returns:
        ``whole``, whether the GPU computed every operator, and ``drivers``, the Vulkan drivers that were loaded.
    """
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    compiled: Any = CompiledModel.from_file(model, hardware_accel=HardwareAccelerator.GPU)
    whole = bool(compiled.is_fully_accelerated())
    inputs, results = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
    found = []
    for batch in np.load(batches):
        inputs[0].write(np.ascontiguousarray(batch))
        compiled.run_by_index(0, inputs, results)
        found.append(np.array(results[0].read(length, np.dtype(dtype))))
    np.save(outputs, np.stack(found))
    # the memory map names the driver in use, whatever the variables asked for
    drivers = sorted(set(_DRIVER.findall(Path("/proc/self/maps").read_text(encoding="utf-8"))))
    return {"whole": whole, "drivers": drivers}


if __name__ == "__main__":
    raise SystemExit(serve({"run": run}))
