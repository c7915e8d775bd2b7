"""A float graph made into one of integers: which operators count in int8, and where values change between the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .calibrate import Stats, activation_qparams, weight_qparams
from .graph import Graph, Op, QParams

Mode = Literal["float", "dynamic", "int8"]
"""How an operator counts; ``dynamic`` has int8 weights and quantises its float input as it comes."""

PASSING = ("reshape", "transpose", "slice")
"""Operators that move values and change none: they count as their neighbours do."""

FIXED = {"softmax": QParams((1 / 256,), -128), "logistic": QParams((1 / 256,), -128)}
"""Outputs whose scale the engines prescribe."""


@dataclass(frozen=True)
class Ranges:
    """How integer ranges are chosen from what calibration saw.

    Attributes:
        activations: ``minmax``, ``mse`` or ``percentile``.
        outside: the image and the logits are integers too.
    """

    activations: Literal["minmax", "mse", "percentile"] = "mse"
    outside: bool = False


def quantise(graph: Graph, modes: Mapping[str, Mode], seen: Mapping[str, Stats], ranges: Ranges) -> Graph:
    """Returns ``graph`` with the operators of ``modes`` in integers, and conversions where the two kinds meet.

    Args:
        graph: a float graph.
        modes: by the name of what an operator writes; those not named count in float. Of operators that only move
            values, those whose neighbours are integers become integers by themselves.
        seen: from ``observe`` of the same graph.
        ranges: how to choose.
    """
    modes = _with_passing(graph, modes, ranges.outside)
    return _Quantiser(graph, modes, _activations(graph, modes, seen, ranges), ranges.outside).build()


def _with_passing(graph: Graph, modes: Mapping[str, Mode], outside: bool) -> dict[str, Mode]:
    """Decides for the operators that move values: int8 where what they read, or all that read them, is int8."""
    full: dict[str, Mode] = {op.output: modes.get(op.output, "float") for op in graph.ops}
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    for op in reversed(graph.ops):
        if op.kind in PASSING and op.output not in modes:
            after = [full[reader.output] for reader in readers.get(op.output, [])]
            full[op.output] = "int8" if after and all(mode == "int8" for mode in after) else "float"
    for op in graph.ops:
        if op.kind in PASSING and op.output not in modes:
            source = op.inputs[0]
            if full.get(source) == "int8" or (source == graph.input and outside):
                full[op.output] = "int8"
    return full


def _activations(
    graph: Graph, modes: Mapping[str, Mode], seen: Mapping[str, Stats], ranges: Ranges
) -> dict[str, QParams]:
    """Chooses scale and zero point of every tensor that some operator needs as int8."""
    source = {op.output: op.inputs[0] for op in graph.ops if op.kind in PASSING}

    def root(name: str) -> str:
        while name in source:
            name = source[name]
        return name

    needed: set[str] = set()
    symmetric: set[str] = set()
    joined: dict[str, str] = {}
    for op in graph.ops:
        if modes[op.output] != "int8":
            continue
        needed |= {root(name) for name in (*op.inputs, op.output) if name not in graph.constants}
        if op.kind == "batch_matmul":
            symmetric.add(root(op.inputs[1]))
        if op.kind == "concatenation":
            # engines want all parts on the grid of the whole
            joined |= {root(name): op.output for name in op.inputs if name not in graph.constants}
    if ranges.outside:
        needed.add(graph.input)
    kinds = {op.output: op.kind for op in graph.ops}
    roots = {}
    for name in needed:
        fixed = FIXED.get(kinds.get(name, "")) if modes.get(name) == "int8" else None
        stats = seen[joined.get(name, name)]
        roots[name] = fixed or activation_qparams(stats, name in symmetric, ranges.activations)
    return {name: roots[root(name)] for name in graph.shapes if name not in graph.constants and root(name) in roots}


class _Quantiser:
    """Writes the operators anew; of every tensor there is a float version, an int8 version, or both."""

    def __init__(self, graph: Graph, modes: Mapping[str, Mode], grids: Mapping[str, QParams], outside: bool) -> None:
        self.graph, self.modes, self.grids, self.outside = graph, modes, grids, outside
        self.ops: list[Op] = []
        self.constants = dict(graph.constants)
        self.shapes = dict(graph.shapes)
        self.qparams: dict[str, QParams] = {}
        self.made: dict[tuple[str, str], str] = {}

    def build(self) -> Graph:
        graph = self.graph
        if self.outside:
            self.qparams[graph.input] = self.grids[graph.input]
        for op in graph.ops:
            mode = self.modes[op.output]
            if mode == "int8":
                self.integer(op)
            else:
                inputs = tuple(n if n in graph.constants else self.version(n, "float") for n in op.inputs)
                self.ops.append(replace(op, inputs=inputs))
                if mode == "dynamic":
                    self.weight(op)
        output = graph.output
        if self.outside and output not in self.qparams:
            raise AssertionError("the last operator must be an integer one for an integer output")
        if not self.outside:
            output = self.version(output, "float")
        used = {name for op in self.ops for name in (*op.inputs, op.output)} | {graph.input}
        return Graph(
            graph.input,
            output,
            tuple(self.ops),
            {name: value for name, value in self.constants.items() if name in used},
            {name: shape for name, shape in self.shapes.items() if name in used},
            {name: grid for name, grid in self.qparams.items() if name in used},
        )

    def integer(self, op: Op) -> None:
        graph = self.graph
        inputs = []
        for position, name in enumerate(op.inputs):
            if name not in graph.constants:
                inputs.append(self.version(name, "int8"))
            elif op.kind in ("fully_connected", "conv_2d"):
                inputs.append(name)
            else:
                inputs.append(self.plain_constant(name, op, position))
        self.ops.append(replace(op, inputs=tuple(inputs)))
        self.qparams[op.output] = self.grids[op.output]
        if op.kind in ("fully_connected", "conv_2d"):
            self.weight(op)
            if len(op.inputs) > 2:
                scales = np.asarray(self.qparams[op.inputs[1]].scale) * self.grids[op.inputs[0]].scale[0]
                self.qparams[op.inputs[2]] = QParams(tuple(float(s) for s in scales), 0, "int32", 0)

    def weight(self, op: Op) -> None:
        name = op.inputs[1]
        axis = 0
        if op.kind == "batch_matmul":
            axis = -2 if op.options.get("adj_y") else -1
        self.qparams[name] = weight_qparams(self.constants[name], axis)

    def plain_constant(self, name: str, op: Op, position: int) -> str:
        """A constant operand in int8; it may be read by several operators, each with a grid of its own."""
        value = self.constants[name]
        own = f"{name}.int8.{op.output}" if name in self.qparams else name
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        if op.kind == "concatenation":
            grid = self.grids[op.output]
        elif op.kind == "batch_matmul" and position == 1:
            grid = QParams((max(-low, high, 1e-9) / 127,))
        else:
            scale = max(high - low, 1e-9) / 255
            grid = QParams((scale,), int(np.clip(round(-128 - low / scale), -128, 127)))
        self.constants[own], self.shapes[own], self.qparams[own] = value, value.shape, grid
        return own

    def version(self, name: str, wanted: Literal["float", "int8"]) -> str:
        """Returns the name of the wanted version of a computed tensor, converting it where it is not there."""
        own = "int8" if name in self.qparams else "float"
        if own == wanted:
            return name
        key = (name, wanted)
        if key not in self.made:
            made = f"{name}.{wanted}"
            self.ops.append(Op("quantize" if wanted == "int8" else "dequantize", (name,), made))
            self.shapes[made] = self.shapes[name]
            if wanted == "int8":
                self.qparams[made] = self.grids[name]
            self.made[key] = made
        return self.made[key]
