"""The process in which LiteRT runs a file on a GPU: a crash in it ends nothing else.

Started by ``gpu`` as a script, so it imports nothing of this package.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

_DRIVER = re.compile(r"libvk_\w+\.so|libGLX_nvidia\.so|libvulkan_\w+\.so")


def main(model: str, batches: str, answers: str, length: str, dtype: str) -> int:
    """Runs ``model`` on every batch of one ``.npy`` file and writes what it answers to another.

    Args:
        model: a ``.tflite`` file of one input and one output.
        batches: inputs ``(N, …)`` in the file's own type.
        answers: where to write its outputs ``(N, length)``.
        length: values of one output.
        dtype: of the output.
    """
    # the runtime chats on stdout, which is for one line of JSON
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    compiled: Any = CompiledModel.from_file(model, hardware_accel=HardwareAccelerator.GPU)
    whole = bool(compiled.is_fully_accelerated())
    inputs, outputs = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
    found = []
    for batch in np.load(batches):
        inputs[0].write(np.ascontiguousarray(batch))
        compiled.run_by_index(0, inputs, outputs)
        found.append(np.array(outputs[0].read(int(length), np.dtype(dtype))))
    np.save(answers, np.stack(found))
    # what is mapped into memory tells which driver it was, whatever the variables asked for
    drivers = sorted(set(_DRIVER.findall(Path("/proc/self/maps").read_text(encoding="utf-8"))))
    stream.write(json.dumps({"whole": whole, "drivers": drivers}) + "\n")
    stream.flush()
    return 0


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    # the GPU runtime's own end has nothing left to say, and may crash
    os._exit(status)
