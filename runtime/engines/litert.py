"""LiteRT, which runs ``.tflite`` files on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ArtifactError, MissingExtraError
from runtime.quiet import quiet

from .base import DTYPES, EngineDevice, EngineKind, EngineName, check_fit, check_one


def load_interpreter(path: Path, threads: int, keep_tensors: bool = False) -> Any:
    """Returns LiteRT's interpreter with its XNNPACK delegate, its tensors allocated.

    Args:
        path: the ``.tflite`` file.
        threads: of the delegate.
        keep_tensors: whether every computed tensor can be read after a run; it takes memory for all of them, and
            XNNPACK then computes each operator alone, with the same kernels.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ArtifactError: the file is not a model it can load.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "litert") from None
    try:
        with quiet():
            interpreter = Interpreter(
                model_path=str(path), num_threads=threads, experimental_preserve_all_tensors=keep_tensors
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"LiteRT cannot load {path}", got=error) from error
    return interpreter


class LiteRtEngine:
    """LiteRT's interpreter with its XNNPACK delegate.

    Args:
        path: the ``.tflite`` file.
        threads: of the delegate.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ArtifactError: the file is not a model it can load, or not one image in and one tensor out.
    """

    name: EngineName = "litert"

    def __init__(self, path: Path, threads: int) -> None:
        interpreter = load_interpreter(path, threads)
        self.version = version("ai-edge-litert")
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        check_one(path, len(inputs), len(outputs))
        self._interpreter = interpreter
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self.input_name, self.output_name = inputs[0]["name"], outputs[0]["name"]
        self.input_shape = tuple(int(size) for size in inputs[0]["shape"])
        self.output_shape = tuple(int(size) for size in outputs[0]["shape"])
        self.input_dtype, self.output_dtype = dtype_of(path, inputs[0]), dtype_of(path, outputs[0])
        self.input_qparams, self.output_qparams = qparams_of(path, inputs[0]), qparams_of(path, outputs[0])

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Runs one batch of exactly the file's shape.

        Raises:
            DataError: the input is of another type or shape.
        """
        try:
            self._interpreter.set_tensor(self._input, batch)
        except ValueError as error:
            check_fit(self, batch, error)
            raise
        self._interpreter.invoke()
        output: npt.NDArray[Any] = self._interpreter.get_tensor(self._output)
        return output


def dtype_of(path: Path, detail: dict[str, Any]) -> np.dtype[Any]:
    """Returns the type of a tensor of ``path``.

    Args:
        path: the file, for the error.
        detail: of the tensor, as the interpreter gives it.

    Raises:
        ArtifactError: no file of ours has it.
    """
    dtype: np.dtype[Any] = np.dtype(detail["dtype"])
    if dtype not in DTYPES.values():
        raise ArtifactError(
            f"{path} has a tensor of an unsupported type",
            expected=", ".join(kind.name for kind in DTYPES.values()),
            got=dtype.name,
        )
    return dtype


def qparams_of(path: Path, detail: dict[str, Any]) -> tuple[float, int] | None:
    """Returns scale and zero point of a tensor of ``path``; None for float.

    Args:
        path: the file, for the error.
        detail: of the tensor, as the interpreter gives it.

    Raises:
        ArtifactError: an integer tensor has no scale.
    """
    if np.dtype(detail["dtype"]) == np.float32:
        return None
    scale, zero_point = detail["quantization"]
    if not scale > 0:
        raise ArtifactError(f"{path} has an integer tensor without a scale", got=detail["name"])
    return float(scale), int(zero_point)


def open_litert(path: Path, threads: int, device: EngineDevice = "cpu") -> LiteRtEngine:
    """Loads a ``.tflite`` file; ``device`` is always ``cpu``."""
    return LiteRtEngine(path, threads)


LITERT = EngineKind(
    "litert",
    "LiteRT",
    open_litert,
    ("tflite",),
    "ai_edge_litert.interpreter",
    package="ai-edge-litert",
    extra="litert",
    portable=True,
)
