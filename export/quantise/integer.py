"""Turns a float graph into a graph of integers, with conversions between the two where they meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from export.graph.ir import LINEAR, Graph, IntType, Op, QParams

from .blocks import block_qparams, takes_blocks
from .calibrate import TensorStats, activation_qparams, int8_range, weight_qparams
from .recipes import Mode, Ranges

PASSING = ("reshape", "transpose", "slice")
"""Operators that move values without changing them: they take the mode of their neighbours."""

FIXED = {
    "int8": {"softmax": QParams((1 / 256,), -128), "logistic": QParams((1 / 256,), -128)},
    "int16": {"softmax": QParams((1 / 32768,), 0, "int16"), "logistic": QParams((1 / 32768,), 0, "int16")},
}
"""Scales and zero points of outputs that the engines prescribe."""


def quantise_graph(graph: Graph, modes: Mapping[str, Mode], seen: Mapping[str, TensorStats], ranges: Ranges) -> Graph:
    """Returns ``graph`` with the operators of ``modes`` in integers, and conversions between integers and floats.

    Args:
        graph: a float graph.
        modes: mode of each operator by the name of its output; float for others. Operators that only move values take
            the mode of their neighbours.
        seen: statistics from ``observe`` of the same graph.
        ranges: how integer ranges are chosen.
    """
    modes = _with_passing(graph, modes, ranges.outside)
    return _Quantiser(graph, modes, _grids(graph, modes, seen, ranges), ranges).build()


def _with_passing(graph: Graph, modes: Mapping[str, Mode], outside: bool) -> dict[str, Mode]:
    """Returns the modes with operators that move values: integers if their input or all their readers are."""
    full: dict[str, Mode] = {op.output: modes.get(op.output, "float") for op in graph.ops}
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    for op in reversed(graph.ops):
        if op.kind in PASSING and op.output not in modes:
            after = [full[reader.output] for reader in readers.get(op.output, [])]
            full[op.output] = "integer" if after and all(mode == "integer" for mode in after) else "float"
    for op in graph.ops:
        if op.kind in PASSING and op.output not in modes:
            source = op.inputs[0]
            if full.get(source) == "integer" or (source == graph.input and outside):
                full[op.output] = "integer"
    return full


@dataclass(frozen=True)
class _Grids:
    """Scales and zero points of the tensors of a graph.

    Attributes:
        own: those of every tensor that some operator needs as integers, in the type in which it is computed.
        other: those of the same tensors in the other type, where activations have two types.
    """

    own: Mapping[str, QParams]
    other: Mapping[str, QParams]


def _grids(graph: Graph, modes: Mapping[str, Mode], seen: Mapping[str, TensorStats], ranges: Ranges) -> _Grids:
    """Returns the scale and zero point of every tensor that some operator needs as integers."""
    root = _roots(graph)
    needed: set[str] = {graph.input} if ranges.outside else set()
    symmetric: set[str] = set()
    joined: dict[str, str] = {}
    for op in graph.ops:
        if modes[op.output] != "integer":
            continue
        needed |= {root(name) for name in (*op.inputs, op.output) if name not in graph.constants}
        if op.kind == "batch_matmul":
            # XNNPACK takes no product whose second operand has a zero point
            symmetric.add(root(op.inputs[1]))
        if op.kind == "concatenation":
            # engines want all parts on the grid of the whole
            joined |= {root(name): op.output for name in op.inputs if name not in graph.constants}
    kinds = {op.output: op.kind for op in graph.ops}

    def grid(name: str, dtype: Literal["int8", "int16"]) -> QParams:
        fixed = FIXED[dtype].get(kinds.get(name, "")) if modes.get(name) == "integer" else None
        return fixed or activation_qparams(seen[joined.get(name, name)], name in symmetric, ranges.method, dtype)

    own = {name: grid(name, ranges.type_of(name)) for name in needed}
    other = {name: grid(name, "int16" if own[name].dtype == "int8" else "int8") for name in needed if ranges.wide}
    names = [name for name in graph.shapes if name not in graph.constants and root(name) in own]
    return _Grids({name: own[root(name)] for name in names}, {name: other[root(name)] for name in names if ranges.wide})


def _roots(graph: Graph) -> Callable[[str], str]:
    """Returns a function from a tensor to the one its values were computed in, before they were only moved."""
    source = {op.output: op.inputs[0] for op in graph.ops if op.kind in PASSING}

    def root(name: str) -> str:
        while name in source:
            name = source[name]
        return name

    return root


class _Quantiser:
    """Rewrites the operators; every tensor has a float version, an integer version, or both."""

    def __init__(self, graph: Graph, modes: Mapping[str, Mode], grids: _Grids, ranges: Ranges) -> None:
        self.graph, self.modes, self.grids, self.others, self.ranges = graph, modes, grids.own, grids.other, ranges
        self.ops: list[Op] = []
        self.constants = dict(graph.constants)
        self.shapes = dict(graph.shapes)
        self.qparams: dict[str, QParams] = {}
        self.made: dict[tuple[str, IntType | None], str] = {}
        self.same: dict[str, str] = {}
        root = _roots(graph)
        self.joined = {root(name) for op in graph.ops if op.kind == "concatenation" for name in op.inputs}

    def build(self) -> Graph:
        graph, outside = self.graph, self.ranges.outside
        if outside:
            self.qparams[graph.input] = self.grids[graph.input]
        for written in graph.ops:
            op = replace(written, inputs=tuple(self.same.get(name, name) for name in written.inputs))
            mode = self.modes[op.output]
            if mode == "integer" and self.adds_nothing(op):
                self.same[op.output] = op.inputs[0]
            elif mode == "integer":
                self.integer(op)
            else:
                inputs = tuple(name if name in graph.constants else self.version(name, None) for name in op.inputs)
                self.ops.append(replace(op, inputs=inputs))
                if mode in ("dynamic", "blocks"):
                    self.weight(op, mode == "blocks")
        output = self.version(graph.output, self.ranges.activations if outside else None)
        used = {name for op in self.ops for name in (*op.inputs, op.output)} | {graph.input}
        return Graph(
            graph.input,
            output,
            tuple(self.ops),
            {name: value for name, value in self.constants.items() if name in used},
            {name: shape for name, shape in self.shapes.items() if name in used},
            {name: grid for name, grid in self.qparams.items() if name in used},
        )

    def adds_nothing(self, op: Op) -> bool:
        """Returns whether an operator adds a constant of less than half a step, such as a norm's epsilon.

        An operator that also brings its input to the scale of a concatenation is kept.
        """
        if op.kind != "add" or op.inputs[0] in self.graph.constants or op.inputs[1] not in self.graph.constants:
            return False
        if op.output in self.joined and self.grids[op.inputs[0]] != self.grids[op.output]:
            return False
        most, step = np.abs(self.constants[op.inputs[1]]).max(), self.grids[op.inputs[0]].scale[0]
        return bool(most < step / 2) and self.shapes[op.inputs[0]] == self.shapes[op.output]

    def integer(self, op: Op) -> None:
        inputs, dtype = [], self.grids[op.output].dtype
        for position, name in enumerate(op.inputs):
            if name not in self.graph.constants:
                inputs.append(self.version(name, dtype))
            elif op.kind in LINEAR:
                inputs.append(name)
            else:
                inputs.append(self.operand(name, op, position))
        self.ops.append(replace(op, inputs=tuple(inputs)))
        self.qparams[op.output] = self.grids[op.output]
        if op.kind in LINEAR:
            self.weight(op)
            if len(op.inputs) > 2:
                scales = np.asarray(self.qparams[op.inputs[1]].scale) * self.qparams[inputs[0]].scale[0]
                wide = "int64" if dtype == "int16" else "int32"
                self.qparams[op.inputs[2]] = QParams(tuple(float(s) for s in scales), 0, wide, 0)  # type: ignore[arg-type]

    def weight(self, op: Op, blocks: bool = False) -> None:
        axis, value = 0, self.constants[op.inputs[1]]
        if blocks and takes_blocks(value):
            self.qparams[op.inputs[1]] = block_qparams(value)
            return
        if op.kind == "batch_matmul":
            axis = -2 if op.options.get("adj_y") else -1
        self.qparams[op.inputs[1]] = weight_qparams(value, axis)

    def operand(self, name: str, op: Op, position: int) -> str:
        """Returns a constant that is not a Linear's weight, under one name for each scale and zero point."""
        value = self.constants[name]
        own = f"{name}.for.{op.output}" if name in self.qparams else name
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        if op.kind == "concatenation":
            grid = self.grids[op.output]
        elif self.grids[op.output].dtype == "int16":
            grid = QParams((max(-low, high, 1e-9) / 32767,), 0, "int16")
        else:
            grid = int8_range(low, high, op.kind == "batch_matmul" and position == 1)
        self.constants[own], self.shapes[own], self.qparams[own] = value, value.shape, grid
        return own

    def version(self, name: str, dtype: IntType | None) -> str:
        """Returns the name of a computed tensor in a type, None for float, and adds the conversion if it is needed."""
        own = self.qparams[name].dtype if name in self.qparams else None
        if own == dtype:
            return name
        if (name, dtype) not in self.made:
            end = "float" if dtype is None else "integer" if own is None else dtype
            made = f"{name}.{end}"
            self.ops.append(Op("dequantize" if dtype is None else "quantize", (name,), made))
            self.shapes[made] = self.shapes[name]
            if dtype is not None:
                self.qparams[made] = (self.grids if self.grids[name].dtype == dtype else self.others)[name]
            self.made[name, dtype] = made
        return self.made[name, dtype]
