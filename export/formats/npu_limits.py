"""What the NPU compilers of chip vendors ask of a graph of integers, checked before its file is written.

The limits are the narrower ones of the two lists that Arm's compiler Vela 5.2 prints for Ethos-U55 and U65, and for U85
(``vela --supported-ops-report``), and the rules of TFLite for 8 bits
(https://ai.google.dev/edge/litert/models/quantization_spec). What other vendors ask is in the guide "NPUs".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from export.graph.ir import LINEAR, OP_KINDS, Graph, Op

NPU_KINDS = tuple(kind for kind in OP_KINDS if kind != "dequantize")
"""Operators that may stand in a file for NPUs; there is nothing to dequantize."""

MOST_RANK = 4
MOST_SIZE = 2**16
"""Most inputs or outputs of a product, rows of a softmax, and values on a side of a transpose."""

MOST_REDUCED = 4095
MOST_WEIGHT_SUM = 127 * 2**16
"""Most that the absolute weights of one output may sum to, in steps."""


def npu_breaches(graph: Graph) -> tuple[str, ...]:
    """Returns a sentence for everything in a graph of integers that NPU compilers do not take; none for a good graph.

    Args:
        graph: of integers.
    """
    return tuple(dict.fromkeys((*_tensors(graph), *(text for op in graph.ops for text in _operator(op, graph)))))


def _tensors(graph: Graph) -> Iterator[str]:
    weights = {op.inputs[1] for op in graph.ops if op.kind in LINEAR}
    biases = {op.inputs[2] for op in graph.ops if op.kind in LINEAR and len(op.inputs) > 2}
    ends = {graph.input, graph.output}
    for name, shape in graph.shapes.items():
        grid = graph.qparams.get(name)
        if grid is None:
            yield f"{name} is not an integer"
            continue
        allowed = ("int32",) if name in biases else ("int8", "uint8") if name in ends else ("int8",)
        if grid.dtype not in allowed:
            yield f"{name} is {grid.dtype} and not {' or '.join(allowed)}"
        if name in weights and (grid.axis != 0 or len(grid.scale) != shape[0] or grid.zero_point):
            yield f"the weights {name} have no scale of their own for each output"
        if name not in weights | biases and len(grid.scale) != 1:
            yield f"{name} has several scales and is no weight of a Linear"
        if len(shape) > MOST_RANK:
            yield f"{name} has {len(shape)} dimensions, more than {MOST_RANK}"


def _operator(op: Op, graph: Graph) -> Iterator[str]:
    if op.kind not in NPU_KINDS:
        yield f"{op.output} is a {op.kind}"
    elif op.kind in _CHECKS:
        yield from _CHECKS[op.kind](op, graph)


def _linear(op: Op, graph: Graph) -> Iterator[str]:
    weight, grid = op.inputs[1], graph.qparams.get(op.inputs[1])
    if grid is None:
        return
    stored = np.abs(grid.stored(graph.constants[weight]).astype(np.int64)).reshape(graph.shapes[weight][0], -1)
    if max(stored.shape) > MOST_SIZE:
        yield f"{op.output} has {stored.shape[1]} inputs and {stored.shape[0]} outputs, more than {MOST_SIZE}"
    if stored.sum(axis=1).max() > MOST_WEIGHT_SUM:
        yield f"the absolute weights of an output of {op.output} sum to more than {MOST_WEIGHT_SUM} steps"


def _product(op: Op, graph: Graph) -> Iterator[str]:
    if any(name in graph.constants for name in op.inputs):
        yield f"{op.output} is a product of attention with weights, which then have one scale"
    if max(max(graph.shapes[name][-2:]) for name in op.inputs) > MOST_SIZE:
        yield f"{op.output} has factors longer than {MOST_SIZE}"


def _softmax(op: Op, graph: Graph) -> Iterator[str]:
    if math.prod(graph.shapes[op.inputs[0]][:-1]) >= MOST_SIZE:
        yield f"the softmax {op.output} has {MOST_SIZE} rows or more"


def _mean(op: Op, graph: Graph) -> Iterator[str]:
    shape = graph.shapes[op.inputs[0]]
    reduced = math.prod(shape[axis] for axis in op.options["axis"])
    if reduced > MOST_REDUCED:
        yield f"{op.output} is a mean of {reduced} values, more than {MOST_REDUCED}"
    if shape[0] != 1:
        yield f"{op.output} is a mean of {shape[0]} images"


def _transpose(op: Op, graph: Graph) -> Iterator[str]:
    shape, perm = graph.shapes[op.inputs[0]], op.options["perm"]
    if len(shape) == MOST_RANK and shape[0] == 1 and perm[0] == 0:
        most, what = max(shape), "a side of"
    else:
        # two dimensions are taken together where the first is not that of a single image
        most, what = math.prod(sorted(shape)[-2:]), "two sides with together"
    if most > MOST_SIZE:
        yield f"{op.output} transposes {what} {most} values, more than {MOST_SIZE}"


_CHECKS: dict[str, Callable[[Op, Graph], Iterator[str]]] = {
    "fully_connected": _linear,
    "conv_2d": _linear,
    "batch_matmul": _product,
    "softmax": _softmax,
    "mean": _mean,
    "transpose": _transpose,
}
