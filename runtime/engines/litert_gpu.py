"""LiteRT's CompiledModel, which runs ``.tflite`` files on a GPU (Vulkan, Metal, Direct3D through WebGPU; OpenCL).

NOT RUN ON HARDWARE YET: this was tested with a driver that computes on the CPU.
"""

from __future__ import annotations

from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ArtifactError, MissingExtraError, UnsupportedTargetError
from runtime.quiet import quiet

from .base import EngineDevice, EngineKind, EngineName, check_fit, check_one
from .litert import dtype_of, qparams_of


class LiteRtGpuEngine:
    """A file that LiteRT compiled for the GPU.

    Args:
        path: the ``.tflite`` file.

    Attributes:
        whole: whether the GPU computes all operators; LiteRT's CPU kernels compute the others.

    Raises:
        MissingExtraError: ai-edge-litert is not installed, or is older than its CompiledModel.
        UnsupportedTargetError: there is no GPU that LiteRT can use, or it cannot compile this file for it.
        ArtifactError: the file is not one image in and one tensor out.
    """

    name: EngineName = "litert-gpu"

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.compiled_model import CompiledModel
            from ai_edge_litert.hardware_accelerator import HardwareAccelerator
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise MissingExtraError("ai-edge-litert", "litert") from None
        try:
            # only this interpreter tells the scales of integers; without tensors it computes nothing
            interpreter: Any = Interpreter(model_path=str(path))
            inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"LiteRT cannot load {path}", got=error) from error
        check_one(path, len(inputs), len(outputs))
        try:
            compiled: Any = CompiledModel.from_file(str(path), hardware_accel=HardwareAccelerator.GPU)
        except (ValueError, RuntimeError) as error:
            raise UnsupportedTargetError(
                f"LiteRT cannot compile {path.name} for a GPU",
                got=str(error).strip().splitlines()[-1].lstrip("└ ").partition(". ")[0].rstrip(".")[:200],
            ) from error
        self.version = version("ai-edge-litert")
        self.whole = bool(compiled.is_fully_accelerated())
        self.input_name, self.output_name = inputs[0]["name"], outputs[0]["name"]
        self.input_shape = tuple(int(size) for size in inputs[0]["shape"])
        self.output_shape = tuple(int(size) for size in outputs[0]["shape"])
        self.input_dtype, self.output_dtype = dtype_of(path, inputs[0]), dtype_of(path, outputs[0])
        self.input_qparams, self.output_qparams = qparams_of(path, inputs[0]), qparams_of(path, outputs[0])
        self._compiled = compiled
        self._inputs, self._outputs = compiled.create_input_buffers(0), compiled.create_output_buffers(0)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copies one batch of exactly the file's shape to the GPU, runs it and copies the output back.

        Raises:
            DataError: the input is of another type or shape.
        """
        if (batch.shape, batch.dtype) != (self.input_shape, self.input_dtype):
            check_fit(self, batch)
        self._inputs[0].write(np.ascontiguousarray(batch))
        self._compiled.run_by_index(0, self._inputs, self._outputs)
        found = self._outputs[0].read(prod(self.output_shape), self.output_dtype)
        output: npt.NDArray[Any] = np.array(found).reshape(self.output_shape)
        return output


def open_litert_gpu(path: Path, threads: int, device: EngineDevice = "gpu") -> LiteRtGpuEngine:
    """Loads a ``.tflite`` file; ``device`` is always ``gpu``, and ``threads`` does not matter there.

    Raises:
        UnsupportedTargetError: the GPU would compute only a part of the file.
    """
    with quiet():
        engine = LiteRtGpuEngine(path)
    if not engine.whole:
        raise UnsupportedTargetError(
            f"{path.name} does not run wholly on the GPU",
            expected="every operator on the GPU",
            got="some left to the CPU, whose answers and times these would be",
        )
    return engine


LITERT_GPU = EngineKind(
    "litert-gpu",
    "LiteRT on a GPU",
    open_litert_gpu,
    formats=("tflite",),
    module="ai_edge_litert",
    extra="litert",
    devices=("gpu",),
)
