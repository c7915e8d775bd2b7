"""Computes the last token of an int8 graph several times with shifted rounding, and averages the answers.

After the attention of its last block a model with a class token has one row left, beside the dozens that every layer
before computed. So what follows costs little, and yet a third of the error of int8 throughout comes from there. Copies
of that row whose values are shifted by parts of a step are rounded differently, and the mean of their answers has less
of the error. The weights are shared, so the file hardly grows.

Ref: dithered quantisation, Roberts 1962 (IRE Trans. Information Theory 8(2), pp. 145-154); Schuchman 1964 (IEEE Trans.
    Communication Technology 12(4), pp. 162-165).
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import replace

import numpy as np

from export.graph.ir import LINEAR, Graph, Op, QParams, output_shape
from export.graph.vit_parts import COPIED

COPIES = 8
"""Most copies of the row."""

_MORE_MACS = 0.02
"""Most that the copies may add to the multiply-accumulates of the graph, as a share of them."""

_SPAN = 2.0
"""Range of the shifts, in steps of the tensor that is shifted or of those computed from it, whichever is larger."""

_ROW_BY_ROW = (
    *("fully_connected", "add", "sub", "mul", "squared_difference"),
    *("gelu", "logistic", "tanh", "relu", "rsqrt", "mean", "softmax", "reshape"),
)


def dithered(graph: Graph) -> Graph:
    """Returns ``graph`` with several copies of its last row where it is int8 from there on, else ``graph`` itself.

    The copies start at the first Linear behind which everything is computed row by row up to the answers. Their number
    is at most 8, and such that they add at most 2 % to the multiply-accumulates.

    Args:
        graph: a graph of integers, with its final ranges.
    """
    part = last_row(graph)
    if not part:
        return graph
    copies = min(COPIES, 1 + int(_MORE_MACS * macs_of(graph) / macs_of(graph, part)))
    return with_row_copies(graph, part, shifts_of(copies, graph, part)) if copies > 1 else graph


def last_row(graph: Graph) -> tuple[str, ...]:
    """Returns the names of the outputs of a Linear of one row and of all that depends on it, in order; or none."""
    for op in graph.ops:
        if op.kind == "fully_connected" and len(graph.shapes[op.output]) == 3:
            part = _reached_from(op, graph)
            if part[-1] == graph.output and all(_can_be_copied(one, part, graph) for one in graph.ops):
                return part
    return ()


def _reached_from(start: Op, graph: Graph) -> tuple[str, ...]:
    reached = {start.output: None}
    for op in graph.ops:
        if not reached.keys().isdisjoint(op.inputs):
            reached[op.output] = None
    return tuple(reached)


def _can_be_copied(op: Op, part: tuple[str, ...], graph: Graph) -> bool:
    """Returns whether an operator, if it is of ``part``, gives an int8 row for the row that it reads."""
    grid = graph.qparams.get(op.output)
    rows = [op.output, *(name for name in op.inputs if op.kind not in LINEAR or name not in graph.constants)]
    return op.output not in part or (
        grid is not None
        and grid.dtype == "int8"
        and op.kind in _ROW_BY_ROW
        and all(math.prod(graph.shapes[name][:-1]) == 1 for name in rows)
        and (op.kind != "mean" or op.options["axis"] == (-1,))
    )


def macs_of(graph: Graph, part: Container[str] | None = None) -> int:
    """Returns the multiply-accumulates of a graph, or of the operators that compute ``part``."""
    total = 0
    for op in graph.ops:
        if op.kind in (*LINEAR, "batch_matmul") and (part is None or op.output in part):
            first, second = (graph.shapes[name] for name in op.inputs[:2])
            inner = first[-1] if op.kind == "batch_matmul" else math.prod(second[1:])
            total += math.prod(graph.shapes[op.output]) * inner
    return total


def shifts_of(copies: int, graph: Graph, part: tuple[str, ...]) -> np.ndarray:
    """Returns the shifts ``(copies, channels)`` of the first tensor of a part; over the copies each channel's sum is 0.

    They are the same for all channels, but in another order for each.
    """
    steps = [graph.qparams[op.output].scale[0] for op in graph.ops if op.output == part[0] or _sums(op, part[0])]
    even = (np.arange(copies) + 0.5) / copies - 0.5
    orders = np.random.default_rng(0).permuted(np.tile(even, (graph.shapes[part[0]][-1], 1)), axis=1)
    return _SPAN * max(steps) * orders.T


def _sums(op: Op, name: str) -> bool:
    return op.kind == "add" and name in op.inputs


def with_row_copies(graph: Graph, part: tuple[str, ...], shifts: np.ndarray) -> Graph:
    """Returns ``graph`` with a copy of the rows of ``part`` for each of ``shifts``, and the mean of their outputs.

    Args:
        graph: a graph of integers.
        part: names of the outputs of a Linear of one row, and of all that depends on it, in order.
        shifts: added to the output of that Linear, ``(copies, channels)``.
    """
    copies, ops = len(shifts), []
    constants, shapes, grids = dict(graph.constants), dict(graph.shapes), dict(graph.qparams)
    mean_of = f"{graph.output}{COPIED}"
    for op in graph.ops:
        if op.output not in part:
            ops.append(op)
            continue
        if op.output == part[0]:
            names = [f"{op.output}.{copy}" for copy in range(copies)]
            for name, shift in zip(names, shifts, strict=True):
                bias = f"{name}.bias"
                constants[bias], grids[bias] = _shifted_bias(op, graph, shift)
                shapes[bias], shapes[name], grids[name] = shift.shape, graph.shapes[op.output], grids[op.output]
                ops.append(replace(op, inputs=(*op.inputs[:2], bias), output=name))
            own = Op("concatenation", tuple(names), op.output, {"axis": -2})
        else:
            own = op
            if op.kind == "reshape":
                own = replace(op, options={"shape": (1, copies, op.options["shape"][-1])})
            if op.output == graph.output:
                own = replace(own, output=mean_of)
                grids[mean_of] = grids[op.output]
        ops.append(own)
        shapes[own.output] = output_shape(own, [shapes[name] for name in own.inputs])
    # the rows are no dimension of images, of which NPU compilers take one
    mean, shape = f"{graph.output}.mean", graph.shapes[graph.output]
    ops.append(Op("mean", (mean_of,), mean, {"axis": (-2,)}))
    ops.append(Op("reshape", (mean,), graph.output, {"shape": shape}))
    shapes[mean], shapes[graph.output], grids[mean] = (1, 1, shape[-1]), shape, grids[graph.output]
    used = {name for op in ops for name in op.inputs} | {op.output for op in ops} | {graph.input}
    return Graph(
        graph.input,
        graph.output,
        tuple(ops),
        {name: value for name, value in constants.items() if name in used},
        {name: shape for name, shape in shapes.items() if name in used},
        {name: grid for name, grid in grids.items() if name in used},
    )


def _shifted_bias(op: Op, graph: Graph, shift: np.ndarray) -> tuple[np.ndarray, QParams]:
    if len(op.inputs) > 2:
        return graph.constants[op.inputs[2]] + shift, graph.qparams[op.inputs[2]]
    scales = np.asarray(graph.qparams[op.inputs[1]].scale) * graph.qparams[op.inputs[0]].scale[0]
    return shift, QParams(tuple(float(scale) for scale in np.broadcast_to(scales, shift.shape)), 0, "int32", 0)
