"""Writes the constants, changes of type and matrices of an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.ir import Graph, Op, QParams
from export.graph.norms import readers_of
from runtime import MissingExtraError

INPUT = "image"

_MOVING = ("reshape", "transpose", "slice")


class TensorWriter:
    """Collects the nodes and constants of a file, and returns the names of a graph's tensors in it.

    Args:
        graph: a float graph, or one of integers.
        half: whether float weights of two dimensions and more are stored as float16.

    Raises:
        MissingExtraError: onnx is not installed.
    """

    def __init__(self, graph: Graph, half: bool) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingExtraError(error.name or "onnx", "export") from None
        self.onnx, self.graph, self.half = onnx, graph, half
        # graphs of integers name the type of their output behind a dot
        self.output = graph.output.partition(".")[0]
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.written: set[str] = set()
        self.names: dict[str, str] = {}
        self.matrices: dict[str, str] = {}
        self.signed = _second_operands(graph)
        self.unrounded = _only_widened(graph)

    def rows(self, name: str) -> str:
        """Returns a tensor as a float matrix ``(rows, channels)``; a constant keeps its shape."""
        if name in self.graph.constants:
            return self.real(name)
        stored = self.stored_rows(name)
        rounded = name in self.graph.qparams and name not in self.unrounded
        return self.dequantized(stored, name) if rounded else stored

    def stored_rows(self, name: str) -> str:
        """Returns a computed tensor as a matrix, in integers where it has them."""
        if name in self.matrices:
            return self.matrices[name]
        stored = self.names[name]
        return self.node("Reshape", [stored, self.integers([-1, self.graph.shapes[name][-1]])], f"{stored}.matrix")

    def named(self, op: Op) -> str:
        """Returns the name of the output of ``op`` in the file, which differs from the file's input and output."""
        return f"{op.output}.out" if op.output in (INPUT, self.output) else op.output

    def stored(self, name: str) -> str:
        """Returns a computed tensor in its dimensions, in integers where it has them."""
        if name not in self.names:
            shape = self.integers([-1, *self.graph.shapes[name]])
            self.names[name] = self.node("Reshape", [self.matrices[name], shape], name)
        return self.names[name]

    def real(self, name: str) -> str:
        """Returns the float tensor of any tensor of the graph."""
        graph = self.graph
        if name in graph.constants:
            return self.real_constant(name, graph.constants[name], None)
        if name in graph.qparams and name not in self.unrounded:
            return self.dequantized(self.stored(name), name)
        return self.stored(name)

    def weight(self, name: str, turned: bool) -> str:
        """Returns the float tensor of a weight, its last two dimensions swapped where ``turned``."""
        grid = self.graph.qparams.get(name)
        axis = None if grid is None or grid.axis is None else -1
        return self.real_constant(name, swapped(self.graph, name) if turned else self.graph.constants[name], axis)

    def real_constant(self, name: str, value: npt.NDArray[Any], axis: int | None) -> str:
        """Returns the float tensor of a constant, ``value``, whose scales run along ``axis`` if not as in the graph."""
        grid = self.graph.qparams.get(name)
        if grid is not None and grid.dtype != "int64":
            own = QParams(grid.scale, grid.zero_point, grid.dtype, grid.axis if axis is None else axis)
            stored = self.array(name, own.stored(value))
            return self.dequantize_node(stored, own, value.ndim, f"{name}.real")
        if self.half and value.ndim > 1 and value.size > 1:
            return self.node("Cast", [self.array(f"{name}.half", value.astype(np.float16))], name, to=1)
        return self.array(name, value.astype(np.float32))

    def repeated(self, name: str) -> str:
        """Returns a constant once for every image of the batch."""
        count = self.node("Shape", [INPUT], "batch", start=0, end=1)
        sizes = self.node("Concat", [count, self.integers(self.graph.shapes[name])], f"{name}.sizes", axis=0)
        return self.node("Expand", [self.real(name), sizes], f"{name}.repeated")

    def quantized(self, real: str, like: str, output: str) -> str:
        """Adds QuantizeLinear to the integers of the tensor ``like`` of the graph."""
        scale, zero = self.grid(like)
        return self.node("QuantizeLinear", [real, scale, zero], output)

    def dequantized(self, stored: str, like: str) -> str:
        """Adds DequantizeLinear from the integers of the tensor ``like`` of the graph."""
        scale, zero = self.grid(like)
        return self.node("DequantizeLinear", [stored, scale, zero], f"{stored}.dequantized")

    def grid(self, name: str) -> tuple[str, str]:
        """Returns scale and zero point of a computed tensor, as it is stored in the file."""
        grid = self.graph.qparams[name]
        zero: npt.NDArray[Any] = np.array(grid.zero_point, grid.dtype)
        if grid.dtype == "int8" and name not in self.signed:
            zero = np.array(grid.zero_point + 128, np.uint8)
        scale = np.array(grid.scale[0], np.float32)
        return self.array(f"{name}.scale", scale), self.array(f"{name}.zero_point", zero)

    def dequantize_node(self, stored: str, grid: QParams, rank: int, output: str) -> str:
        """Writes DequantizeLinear of a constant; engines join only the form with the zero point spelled out."""
        options = {} if grid.axis is None else {"axis": grid.axis % rank}
        scale = np.asarray(grid.scale if grid.axis is not None else grid.scale[0], np.float32)
        zero = np.full(scale.shape, grid.zero_point, grid.dtype)
        name = "_".join([grid.dtype, str(grid.zero_point), *map(str, zero.shape)])
        inputs = [stored, self.array(f"{stored}.scale", scale), self.array(name, zero)]
        return self.node("DequantizeLinear", inputs, output, **options)

    def number(self, value: float) -> str:
        """Returns a float32 scalar; equal ones are stored once."""
        return self.array(f"number_{value!r}", np.array(value, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """Returns an int64 vector of sizes or axes; equal ones are stored once."""
        numbers = [int(value) for value in values]
        return self.array("_".join(["sizes", *map(str, numbers)]), np.array(numbers, np.int64))

    def array(self, name: str, value: npt.NDArray[Any]) -> str:
        """Adds an initializer; the same name must mean the same value."""
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        assert self.initializers.setdefault(name, tensor) == tensor, f"two arrays are called {name}"
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **options: Any) -> str:
        """Adds a node of one output; one that is there already is not written again."""
        return self.outputs(kind, inputs, [output], **options)

    def outputs(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **options: Any) -> str:
        """Adds a node of several outputs, and returns the first; one that is there already is not written again."""
        if outputs[0] not in self.written:
            self.written.update(outputs)
            self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **options))
        return outputs[0]


def swapped(graph: Graph, name: str) -> npt.NDArray[Any]:
    """Returns a constant with its last two dimensions swapped."""
    return np.swapaxes(graph.constants[name], -1, -2)


def _second_operands(graph: Graph) -> frozenset[str]:
    """Returns the tensors that are, or become by moving, the second operand of a product."""
    source = {op.output: op.inputs[0] for op in graph.ops if op.kind in _MOVING}
    moved: dict[str, list[str]] = {}
    for output, name in source.items():
        moved.setdefault(name, []).append(output)
    found: set[str] = set()
    todo = [op.inputs[1] for op in graph.ops if op.kind == "batch_matmul"]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [source[name]] if name in source else []
            todo += moved.get(name, [])
    return frozenset(found)


def without_unread_grids(graph: Graph) -> Graph:
    """Returns a graph of integers without the grids of tensors that its ONNX file does not round."""
    loose = _only_widened(graph)
    return replace(graph, qparams={name: grid for name, grid in graph.qparams.items() if name not in loose})


def _only_widened(graph: Graph) -> frozenset[str]:
    """Returns the computed integer tensors that are only dequantised again, whether moved or not."""
    readers, loose = readers_of(graph), set[str]()
    for op in reversed(graph.ops):
        after = readers.get(op.output, [])
        if op.output in graph.qparams and op.output != graph.output and after:
            if all(r.kind == "dequantize" or (r.kind in _MOVING and r.output in loose) for r in after):
                loose.add(op.output)
    for op in graph.ops:
        kept = op.kind == "quantize" or (op.kind in _MOVING and op.inputs[0] not in loose)
        if op.output in loose and kept:
            loose.discard(op.output)
    return frozenset(loose)
