"""Runs a float ``.tflite`` file in float32 and in simulated float16, and finds the largest value of every operator.

Phones' GPUs compute in float16, and so does XNNPACK on ARM cores that have such instructions where a file allows it.
The simulation rounds every result of every operator, and in products of matrices every sum; exponentials and roots are
exact before they are rounded, while engines approximate them to a few steps of float16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.file_model import op_names, open_tflite, tflite_schema
from runtime import DataError, Progress, UnsupportedTargetError, silent

from .numpy_ops import COMPUTE, MOVING, Arithmetic, Array, Node

HALF_MOST = 65_504.0
"""The largest number of float16."""

_FEWEST, _MOST, _MACS = 2, 32, 1_000_000_000

XNNPACK = Arithmetic(half=True, newton=True)
"""Float16 as XNNPACK computes it on ARM: every product is added and rounded alone."""

_DTYPES = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT32": np.int32, "INT64": np.int64}


@dataclass(frozen=True)
class OpRange:
    """The largest values of an operator over all images.

    Attributes:
        index: of the operator in the file.
        op: its type.
        tensor: name of its output.
        largest: largest absolute value of its output in float32; infinite if it is not finite there.
        sum: largest absolute sum that it forms before it divides, of a mean; None for other operators.
        finite: whether its output is finite in float16 on every image that is computed in float16.
    """

    index: int
    op: str
    tensor: str
    largest: float
    sum: float | None
    finite: bool

    @property
    def most(self) -> float:
        """The largest value or sum."""
        return max(self.largest, self.sum or 0.0)

    @property
    def overflows(self) -> bool:
        """Whether a value or a sum in float32 exceeds the largest number of float16."""
        return self.most > HALF_MOST


@dataclass(frozen=True, eq=False)
class HalfRun:
    """The outcome of a run in both arithmetics.

    Attributes:
        ops: the operators that compute, in the file's order.
        single: outputs in float32, ``(N, classes)``, or grids ``(N, rows, columns, values)``.
        half: outputs of the first images in simulated float16, of the same shape for M images.
    """

    ops: tuple[OpRange, ...]
    single: npt.NDArray[np.float32]
    half: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Operator:
    index: int
    kind: str
    inputs: tuple[int, ...]
    output: int
    options: Any


class FloatFile:
    """A float ``.tflite`` file that numpy can compute.

    Attributes:
        input_shape: of the file, one image first.

    Args:
        path: the file.

    Raises:
        ArtifactError: it is damaged.
        UnsupportedTargetError: it has integers, several inputs or graphs, or an operator that is not simulated.
        MissingExtraError: ai-edge-litert is not installed.
    """

    def __init__(self, path: Path) -> None:
        data, schema = path.read_bytes(), tflite_schema()
        codes = op_names(open_tflite(path, data), data)
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        if len(model.subgraphs) != 1 or len(model.subgraphs[0].inputs) != 1 or len(model.subgraphs[0].outputs) != 1:
            raise _not_simulated(path, "a file with several graphs, inputs or outputs")
        graph = model.subgraphs[0]
        types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
        self._names = [(tensor.name or b"").decode(errors="replace") for tensor in graph.tensors]
        self._constants: dict[int, Array] = {}
        for i, tensor in enumerate(graph.tensors):
            dtype = _DTYPES.get(types.get(tensor.type, ""))
            if dtype is None:
                raise _not_simulated(path, f"a tensor of {types.get(tensor.type, tensor.type)}")
            stored = model.buffers[tensor.buffer].data
            if stored is not None and len(stored):
                shape = () if tensor.shape is None else tuple(int(n) for n in tensor.shape)
                self._constants[i] = np.frombuffer(np.asarray(stored, np.uint8).tobytes(), dtype).reshape(shape)
        self._input, self._output = int(graph.inputs[0]), int(graph.outputs[0])
        self.input_shape = tuple(int(n) for n in graph.tensors[self._input].shape)
        self._ops = [
            _Operator(i, codes[op.opcodeIndex], tuple(map(int, op.inputs)), int(op.outputs[0]), op.builtinOptions)
            for i, op in enumerate(graph.operators)
        ]
        unknown = sorted({op.kind for op in self._ops} - set(COMPUTE))
        if unknown:
            raise _not_simulated(path, f"the operator {', '.join(unknown)}")

    def run(
        self,
        images: npt.NDArray[np.float32],
        arithmetic: Arithmetic = XNNPACK,
        half_images: int | None = None,
        progress: Progress = silent,
    ) -> HalfRun:
        """Computes images one after another in float32 and in float16.

        Args:
            images: preprocessed, ``(N, H, W, C)``.
            arithmetic: how float16 is rounded.
            half_images: number of the first images that are also computed in float16; None takes all.
            progress: called after every image.

        Raises:
            DataError: the images are of another shape.
        """
        if images.shape[1:] != self.input_shape[1:] or self.input_shape[0] != 1 or not len(images):
            raise DataError("The images do not fit the file", expected=f"(N, {self.input_shape[1:]})", got=images.shape)
        single, half = Arithmetic(), arithmetic
        constants = {own: self._prepared(own) for own in (single, half)}
        ranges: dict[int, OpRange] = {}
        outputs: dict[Arithmetic, list[Array]] = {single: [], half: []}
        for number, image in enumerate(images):
            both = half_images is None or number < half_images
            values = {
                own: {**constants[own], self._input: own.rounded(image[None])}
                for own in ((single, half) if both else (single,))
            }
            for op in self._ops:
                for own, known in values.items():
                    if op.output not in known:
                        known[op.output] = self._computed(op, known, own)
                if op.output not in constants[single] and op.kind not in MOVING:
                    ranges[op.index] = _wider(ranges.get(op.index), self._range(op, values[single], values.get(half)))
            for own, known in values.items():
                outputs[own].append(known[self._output][0])
            progress("float16 simulation", number + 1, len(images))
        return HalfRun(tuple(ranges.values()), np.stack(outputs[single]), np.stack(outputs[half]))

    def _prepared(self, own: Arithmetic) -> dict[int, Array]:
        """Returns the constants, and what is computed from constants alone."""
        found = {i: own.rounded(value) if value.dtype.kind == "f" else value for i, value in self._constants.items()}
        for op in self._ops:
            if all(i < 0 or i in found for i in op.inputs):
                found[op.output] = self._computed(op, found, own)
        return found

    def _computed(self, op: _Operator, known: dict[int, Array], own: Arithmetic) -> Array:
        inputs = [known[i] for i in op.inputs if i >= 0]
        with np.errstate(all="ignore"):
            return own.rounded(COMPUTE[op.kind](Node(op.options, inputs, own)))

    def _range(self, op: _Operator, single: dict[int, Array], half: dict[int, Array] | None) -> OpRange:
        value, total = single[op.output], None
        if op.kind == "MEAN":
            count = single[op.inputs[0]].size / max(1, value.size)
            total = _largest(value) * count
        finite = half is None or bool(np.isfinite(half[op.output]).all())
        return OpRange(op.index, op.kind, self._names[op.output], _largest(value), total, finite)


def simulated_images(macs: int, images: int) -> tuple[int, int]:
    """Returns how many images to compute in float16, and after how many products to round their sums.

    A small model has up to 32 images and every sum rounded; the largest models have 2 images and sums of several
    products, which underrates the noise of float16 by up to 3 dB for every doubling.

    Args:
        macs: multiply-accumulates of one image.
        images: number of images there are.

    >>> simulated_images(30_000_000, 100), simulated_images(1_100_000_000, 100), simulated_images(17_600_000_000, 100)
    ((32, 1), (2, 1), (2, 8))
    """
    count = min(images, max(_FEWEST, min(_MOST, _MACS // max(1, macs))))
    return count, 1 << max(0, round(math.log2(max(1.0, macs / _MACS / 2))))


def _largest(value: Array) -> float:
    largest = float(np.abs(value).max(initial=0.0))
    return largest if np.isfinite(largest) else float("inf")


def _wider(before: OpRange | None, own: OpRange) -> OpRange:
    if before is None:
        return own
    total = None if own.sum is None else max(own.sum, before.sum or 0.0)
    return replace(own, largest=max(own.largest, before.largest), sum=total, finite=own.finite and before.finite)


def _not_simulated(path: Path, got: str) -> UnsupportedTargetError:
    return UnsupportedTargetError(
        f"Float16 cannot be simulated for {path.name}",
        expected="a float file of one image with operators of a Vision Transformer",
        got=got,
    )
