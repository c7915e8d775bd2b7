"""A model as a graph of operators, constants and shapes, from which every file format is written.

The graph describes one image and has about twenty kinds of operator. ``vit_graph`` builds it with exact rewrites,
``quantise`` turns it into a graph of integers, and ``run_graph`` computes it in torch, so that every step can be
compared with the torch model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
IntType = Literal["int4", "int8", "uint8", "int16", "int32", "int64"]

LINEAR = ("fully_connected", "conv_2d")
"""Operators with constant weights as their second input, and an optional bias as their third."""

STEM_KINDS = ("conv", "depthwise", "pad", "max_pool")
"""Operators of a convolutional stem alone, which stay float in integer files."""

OP_KINDS = (
    *LINEAR,
    *STEM_KINDS,
    "batch_matmul",
    "add",
    "sub",
    "mul",
    "squared_difference",
    "softmax",
    "gelu",
    "logistic",
    "tanh",
    "relu",
    "rsqrt",
    "mean",
    "reshape",
    "transpose",
    "concatenation",
    "slice",
    "quantize",
    "dequantize",
)


@dataclass(frozen=True)
class QParams:
    """Scale and zero point of a tensor: real = scale * (stored - zero_point).

    Attributes:
        scale: one value, or one for each index along ``axis``.
        zero_point: one value for the whole tensor.
        dtype: type of the stored integers.
        axis: dimension with one scale for each index, or None for one scale.
        block: number of neighbouring inputs that share a scale in a weight ``(outputs, inputs)``, whose scales are
            listed output after output; None for weights without blocks.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    dtype: IntType = "int8"
    axis: int | None = None
    block: int | None = None

    @property
    def limits(self) -> tuple[int, int]:
        """The least and greatest stored integer."""
        if self.dtype == "int4":
            return -8, 7
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    def scales_of(self, shape: Shape) -> Array:
        """Returns the scales, float64, in a shape that broadcasts against a tensor of ``shape``."""
        if self.block is None:
            return self.spread(len(shape))
        outputs, inputs = shape
        scales = np.asarray(self.scale, np.float64).reshape(outputs, inputs // self.block)
        return np.repeat(scales, self.block, axis=1)

    def spread(self, rank: int) -> Array:
        """Returns the scales, float64, in a shape that broadcasts against a tensor of ``rank`` dimensions.

        Scales of blocks need the shape of the tensor and have ``scales_of``.
        """
        scales = np.asarray(self.scale, np.float64)
        if self.axis is None:
            return scales.reshape(())
        return scales.reshape([-1 if i == self.axis % rank else 1 for i in range(rank)])

    def stored(self, real: Array) -> Array:
        """Returns the integers nearest to ``real``; those of 4 bits are stored as int8."""
        grid = np.round(np.asarray(real, np.float64) / self.scales_of(np.shape(real))) + self.zero_point
        return np.clip(grid, *self.limits).astype("int8" if self.dtype == "int4" else self.dtype)

    def rounded(self, real: Array) -> Array:
        """Returns ``real`` rounded to the nearest integers and dequantised, float64."""
        return (self.stored(real).astype(np.float64) - self.zero_point) * self.scales_of(np.shape(real))


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        kind: one of ``OP_KINDS``.
        inputs: names of the tensors it reads, constants included.
        output: name of the tensor it writes.
        options: ``axis``, ``shape``, ``perm``, ``begin``, ``stride``, ``kernel``, ``padding``, ``adj_y``,
            ``approximate``, ``act``; axes count from the end and are negative.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A model that maps one image ``(1, H, W, C)`` to logits ``(1, classes)``.

    Attributes:
        input: name of the image.
        output: name of the logits.
        ops: in an order in which they can be run.
        constants: weights and biases, float64.
        shapes: shape of every tensor, constants included.
        qparams: scale and zero point of the tensors that are integers in the file; all others are float32.
    """

    input: str
    output: str
    ops: tuple[Op, ...]
    constants: Mapping[str, Array]
    shapes: Mapping[str, Shape]
    qparams: Mapping[str, QParams] = field(default_factory=dict)


class Builder:
    """Collects operators and computes the shapes of their outputs.

    Args:
        shape: of the image, ``(1, H, W, C)``.
        name: of the image.
    """

    def __init__(self, shape: Shape, name: str = "image") -> None:
        self.input = name
        self.ops: list[Op] = []
        self.constants: dict[str, Array] = {}
        self.shapes: dict[str, Shape] = {name: shape}

    def constant(self, name: str, value: Array) -> str:
        """Adds a constant and returns its name; the same name must mean the same value."""
        value = np.asarray(value, np.float64)
        if name in self.constants:
            assert np.array_equal(self.constants[name], value), f"two constants are called {name}"
        self.constants[name], self.shapes[name] = value, value.shape
        return name

    def op(self, kind: str, inputs: Iterable[str], output: str, **options: Any) -> str:
        """Adds an operator and returns the name of its output."""
        assert kind in OP_KINDS, kind
        assert output not in self.shapes, f"{output} is written twice"
        op = Op(kind, tuple(inputs), output, options)
        self.shapes[output] = output_shape(op, [self.shapes[name] for name in op.inputs])
        self.ops.append(op)
        return output

    def linear(self, x: str, weight: Array, bias: Array | None, output: str, act: str = "none") -> str:
        """Adds ``x @ weight.T + bias``; ``weight`` is ``(outputs, inputs)``."""
        inputs = [x, self.constant(f"{output}.weight", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{output}.bias", bias))
        return self.op("fully_connected", inputs, output, act=act)

    def graph(self, output: str) -> Graph:
        """Returns the graph that computes ``output``, without operators and constants that it does not need."""
        needed, ops = {output}, []
        for op in reversed(self.ops):
            if op.output in needed:
                needed.update(op.inputs)
                ops.append(op)
        constants = {name: value for name, value in self.constants.items() if name in needed}
        shapes = {name: shape for name, shape in self.shapes.items() if name in needed or name == self.input}
        return Graph(self.input, output, tuple(reversed(ops)), constants, shapes)


def output_shape(op: Op, shapes: list[Shape]) -> Shape:
    """Returns the shape of the output of ``op`` for inputs of ``shapes``."""
    first, options = shapes[0], op.options
    match op.kind:
        case "fully_connected":
            assert first[-1] == shapes[1][1], (op.output, shapes)
            return (*first[:-1], shapes[1][0])
        case "conv_2d":
            (rows, columns), weight = options["stride"], shapes[1]
            assert (weight[1], weight[2], weight[3]) == (rows, columns, first[3]), (op.output, shapes)
            return (first[0], first[1] // rows, first[2] // columns, weight[0])
        case "conv" | "depthwise" | "max_pool":
            (rows, columns), steps = options.get("kernel") or shapes[1][1:3], options["stride"]
            down, across = ((first[1] - rows) // steps[0] + 1, (first[2] - columns) // steps[1] + 1)
            return (first[0], down, across, shapes[1][0] if op.kind == "conv" else first[3])
        case "pad":
            top, bottom, left, right = options["padding"]
            return (first[0], first[1] + top + bottom, first[2] + left + right, first[3])
        case "batch_matmul":
            other = shapes[1] if not options.get("adj_y") else (*shapes[1][:-2], shapes[1][-1], shapes[1][-2])
            assert first[-1] == other[-2], (op.output, shapes)
            assert first[:-2] == other[:-2], (op.output, shapes)
            return (*first[:-1], other[-1])
        case "add" | "sub" | "mul" | "squared_difference":
            return tuple(int(size) for size in np.broadcast_shapes(*shapes))
        case "mean":
            return tuple(1 if i - len(first) in options["axis"] else size for i, size in enumerate(first))
        case "reshape":
            assert np.prod(first) == np.prod(options["shape"]), (op.output, first, options["shape"])
            return tuple(options["shape"])
        case "transpose":
            return tuple(first[i] for i in options["perm"])
        case "slice":
            return tuple(options["size"])
        case "concatenation":
            axis = options["axis"]
            return tuple(
                sum(shape[axis] for shape in shapes) if i - len(first) == axis else size for i, size in enumerate(first)
            )
    return first
