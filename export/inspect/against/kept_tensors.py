"""Runs a ``.tflite`` file and reads every tensor that it computes, in real units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.file_model import op_names, open_tflite, tflite_schema
from runtime import ArtifactError, UnsupportedTargetError, quiet
from runtime.engines.litert import load_interpreter
from runtime.session import quantise

Array = npt.NDArray[Any]

INPUT = "INPUT"
"""The type that stands for an operator in front of the image."""

_INTEGERS = ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "INT2")
"""TFLite's types of tensors that hold rounded values; wider integers are sizes, axes and biases."""


@dataclass(frozen=True)
class Computed:
    """A tensor that an operator of a file computes.

    Attributes:
        name: of the tensor.
        op: type of the operator, as TFLite names it.
        inputs: names of the computed tensors that the operator reads, the file's input among them.
        index: of the tensor in the file.
        dtype: numpy's name of its type.
        shape: its dimensions.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    index: int
    dtype: str
    shape: tuple[int, ...]


class KeptTensors:
    """A loaded file whose computed tensors can be read after each run.

    Attributes:
        path: of the file.
        computed: the image, and every computed tensor in the order of the file's operators. A tensor that shares its
            name with another is left out, since its name does not say what it is.
        ambiguous: number of tensors left out for that reason.
        integers: name of one tensor of integers that hold rounded values, or None for a float file.
        input_name: of the image.
        input_shape: of the image, its first dimension the number of images of a run.
        output: the tensor of the first output.

    Args:
        path: a ``.tflite`` file.
        threads: of the engine.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ArtifactError: LiteRT cannot load the file.
        UnsupportedTargetError: the file has several inputs or several graphs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        self._interpreter = load_interpreter(path, threads, keep_tensors=True)
        with quiet():
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            self._details = {int(one["index"]): one for one in self._interpreter.get_tensor_details()}
        data = path.read_bytes()
        model = open_tflite(path, data)
        if len(inputs) != 1 or not outputs or model.SubgraphsLength() != 1:
            raise UnsupportedTargetError(
                f"The operators of {path.name} cannot be compared",
                expected="a file with one graph and one input",
                got=f"{model.SubgraphsLength()} graphs and {len(inputs)} inputs",
            )
        self._input = inputs[0]
        self.input_name = str(inputs[0]["name"])
        self.input_shape = tuple(int(size) for size in inputs[0]["shape"])
        graph = model.Subgraphs(0)
        found = self._read_computed(graph, op_names(model, data))
        counts = Counter(one.name for one in found)
        self.computed = tuple(one for one in found if counts[one.name] == 1)
        self.ambiguous = len(found) - len(self.computed)
        self.output = next(one for one in found if one.index == int(outputs[0]["index"]))
        self.integers = _first_integers(graph)

    def _read_computed(self, graph: Any, codes: list[str]) -> list[Computed]:
        written = {int(self._input["index"])}
        dtype = np.dtype(self._input["dtype"]).name
        found = [Computed(self.input_name, INPUT, (), int(self._input["index"]), dtype, self.input_shape)]
        for i in range(graph.OperatorsLength()):
            op = graph.Operators(i)
            inputs = [int(n) for n in op.InputsAsNumpy()] if op.InputsLength() else []
            inputs = [n for n in inputs if n in written]
            if not inputs:  # it widens a constant
                continue
            for index in map(int, op.OutputsAsNumpy()):
                written.add(index)
                detail = self._details[index]
                names = tuple(str(self._details[n]["name"]) for n in inputs)
                shape = tuple(int(size) for size in detail["shape"])
                dtype = np.dtype(detail["dtype"]).name
                found.append(Computed(str(detail["name"]), codes[op.OpcodeIndex()], names, index, dtype, shape))
        return found

    def run(self, images: npt.NDArray[np.float32]) -> Callable[[Computed], npt.NDArray[np.float64]]:
        """Runs as many images as the file takes at once.

        Args:
            images: preprocessed, float32, in the shape ``input_shape``.

        Returns:
            A function that returns the values of a computed tensor in real units, float64, until the next run.

        Raises:
            ArtifactError: LiteRT cannot run the file.
        """
        raw: Array = images
        scale, zero_point = self._input["quantization"]
        dtype = np.dtype(self._input["dtype"])
        if dtype.kind in "iu":
            raw = quantise(images, float(scale), int(zero_point), dtype.name)
        try:
            with quiet():
                self._interpreter.set_tensor(self._input["index"], raw.astype(dtype))
                self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"LiteRT cannot run {self.path.name}", got=str(error)[:300]) from error
        return self._value

    def _value(self, one: Computed) -> npt.NDArray[np.float64]:
        detail = self._details[one.index]
        stored: npt.NDArray[np.float64] = self._interpreter.get_tensor(one.index).astype(np.float64)
        parameters = detail["quantization_parameters"]
        scales, zero_points = parameters["scales"], parameters["zero_points"]
        if not len(scales):
            return stored
        shape = [1] * stored.ndim
        if len(scales) > 1:
            shape[int(parameters["quantized_dimension"])] = -1
        real: npt.NDArray[np.float64] = (stored - zero_points.reshape(shape)) * scales.astype(np.float64).reshape(shape)
        return real


def _first_integers(graph: Any) -> str | None:
    """Returns the name of the first tensor of integers that hold rounded values, or None."""
    types = vars(tflite_schema().TensorType)
    wanted = {types[name] for name in _INTEGERS if name in types}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        if tensor.Type() in wanted:
            return (tensor.Name() or b"").decode(errors="replace")
    return None
