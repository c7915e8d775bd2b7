"""The programs that execute an exported file, each behind one small interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .artifact import SUFFIXES
from .errors import ArtifactError, DataError, MissingExtraError, UnsupportedTargetError
from .quiet import quiet

EngineName = Literal["litert", "onnxruntime"]
_DTYPES: dict[str, np.dtype[Any]] = {
    f"tensor({name})": np.dtype(kind)
    for name, kind in (("float", "f4"), ("int8", "i1"), ("uint8", "u1"), ("int16", "i2"))
}
DEFAULT_ENGINES: dict[str, EngineName] = {"tflite": "litert", "onnx": "onnxruntime"}


class Engine(Protocol):
    """A loaded model file.

    Attributes:
        name: of the engine.
        version: of the engine.
        input_name: of the image tensor.
        input_shape: its dimensions; -1 is free (batch).
        input_dtype: its type.
        input_qparams: its (scale, zero point), or none for float.
        output_name: of the logits tensor.
        output_shape: its dimensions.
        output_dtype: its type.
        output_qparams: its (scale, zero point), or none for float.
    """

    name: EngineName
    version: str
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: np.dtype[Any]
    input_qparams: tuple[float, int] | None
    output_name: str
    output_shape: tuple[int, ...]
    output_dtype: np.dtype[Any]
    output_qparams: tuple[float, int] | None

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the raw output ``(B, classes)`` for a raw input of the file's own type and shape.

        Raises:
            DataError: the input is of another type or shape.
        """


class LiteRtEngine:
    """LiteRT's interpreter with its XNNPACK delegate.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ArtifactError: the file is not a model it can load, or not one image in and one tensor out.
    """

    name: EngineName = "litert"

    def __init__(self, path: Path, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise MissingExtraError("ai-edge-litert", "litert") from None
        from importlib.metadata import version

        self.version = version("ai-edge-litert")
        try:
            with quiet():
                interpreter = Interpreter(model_path=str(path), num_threads=threads)
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"LiteRT cannot load {path}", got=error) from error
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        _check_one(path, len(inputs), len(outputs))
        self._interpreter = interpreter
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self.input_name, self.output_name = inputs[0]["name"], outputs[0]["name"]
        self.input_shape = tuple(int(size) for size in inputs[0]["shape"])
        self.output_shape = tuple(int(size) for size in outputs[0]["shape"])
        self.input_dtype, self.output_dtype = _litert_dtype(path, inputs[0]), _litert_dtype(path, outputs[0])
        self.input_qparams, self.output_qparams = _litert_qparams(path, inputs[0]), _litert_qparams(path, outputs[0])

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Runs one batch of exactly the file's shape.

        Raises:
            DataError: the input is of another type or shape.
        """
        try:
            self._interpreter.set_tensor(self._input, batch)
        except ValueError as error:
            _check_fit(self, batch, error)
            raise
        self._interpreter.invoke()
        output: npt.NDArray[Any] = self._interpreter.get_tensor(self._output)
        return output


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ArtifactError: the file is not a model it can load, or not one image in and one tensor out.
    """

    name: EngineName = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnx") from None
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no public base but Exception
            raise ArtifactError(f"ONNX Runtime cannot load {path}", got=error) from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        _check_one(path, len(inputs), len(outputs))
        self._session = session
        self.input_name, self.output_name = inputs[0].name, outputs[0].name
        self.input_shape, self.output_shape = _free_dims(inputs[0].shape), _free_dims(outputs[0].shape)
        self.input_dtype, self.output_dtype = _onnx_dtype(path, inputs[0].type), _onnx_dtype(path, outputs[0].type)
        self.input_qparams: tuple[float, int] | None = None
        self.output_qparams: tuple[float, int] | None = None

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Runs one batch of any size.

        Raises:
            DataError: the input is of another type or shape.
        """
        try:
            output: npt.NDArray[Any] = self._session.run([self.output_name], {self.input_name: batch})[0]
        except Exception as error:  # its exceptions share no public base but Exception
            _check_fit(self, batch, error)
            raise
        return output


def open_engine(path: Path, engine: EngineName | None = None, threads: int = 1) -> Engine:
    """Loads a model file into the engine for its format, without looking for a manifest.

    Args:
        path: a ``.tflite`` or ``.onnx`` file.
        engine: ``litert`` or ``onnxruntime``; by default the one for the format.
        threads: worker threads, at least 1.

    Raises:
        UnsupportedTargetError: no such engine, or it does not read this format, or no threads.
        MissingExtraError: the engine is not installed.
        ArtifactError: the file cannot be loaded.
    """
    if threads < 1:
        raise UnsupportedTargetError("threads must be at least 1", got=threads)
    if path.suffix not in SUFFIXES:
        raise ArtifactError(f"{path} is not a model file", expected="a .onnx or .tflite file")
    if not path.is_file():
        raise ArtifactError(f"The model file {path} does not exist")
    wanted = DEFAULT_ENGINES[SUFFIXES[path.suffix]]
    if engine is not None and engine != wanted:
        raise UnsupportedTargetError(f"{path.name} does not run on that engine", expected=wanted, got=engine)
    return LiteRtEngine(path, threads) if wanted == "litert" else OnnxRuntimeEngine(path, threads)


def _check_one(path: Path, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        raise ArtifactError(
            f"{path} is not an image classifier",
            expected="one input and one output",
            got=f"{inputs} and {outputs}",
        )


def _check_fit(engine: Engine, batch: npt.NDArray[Any], error: Exception) -> None:
    """Says that ``batch`` was at fault when it was; asked only after a failure, so a timed run pays nothing."""
    sizes = [size for size, wanted in zip(batch.shape, engine.input_shape, strict=False) if wanted in (size, -1)]
    if batch.dtype != engine.input_dtype or not len(sizes) == batch.ndim == len(engine.input_shape):
        raise DataError(
            "The input does not fit the model",
            expected=f"{engine.input_dtype} {engine.input_shape}",
            got=f"{batch.dtype} {batch.shape}",
        ) from error


def _litert_dtype(path: Path, detail: dict[str, Any]) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(detail["dtype"])
    if dtype not in _DTYPES.values():
        raise ArtifactError(
            f"{path} has a tensor of an unsupported type",
            expected=", ".join(kind.name for kind in _DTYPES.values()),
            got=dtype.name,
        )
    return dtype


def _litert_qparams(path: Path, detail: dict[str, Any]) -> tuple[float, int] | None:
    if np.dtype(detail["dtype"]) == np.float32:
        return None
    scale, zero_point = detail["quantization"]
    if not scale > 0:
        raise ArtifactError(f"{path} has an integer tensor without a scale", got=detail["name"])
    return float(scale), int(zero_point)


def _free_dims(shape: list[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _onnx_dtype(path: Path, name: str) -> np.dtype[Any]:
    if name not in _DTYPES:
        raise ArtifactError(f"{path} has a tensor of an unsupported type", expected=", ".join(_DTYPES), got=name)
    return _DTYPES[name]
