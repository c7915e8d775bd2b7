"""Writes a graph with operators that XNNPACK computes in float16 from end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .ir import Graph

ZERO = "zero"
"""Name of the constant that values are squared with."""


def without_fused_squares(graph: Graph) -> Graph:
    """Returns the same function with every ``x * x`` as the squared difference of ``x`` and 0.

    XNNPACK fuses a square and the mean behind it into one operator that it has in float32 alone. In a file that it may
    compute in float16, this operator and everything that follows it fall back to float32, with conversions between.
    It does not fuse a squared difference, which it has in float16.

    Args:
        graph: a float graph, of a model with norms or without.
    """
    constants, shapes, ops = dict(graph.constants), dict(graph.shapes), []
    for op in graph.ops:
        if op.kind == "mul" and op.inputs[0] == op.inputs[1]:
            rank = len(graph.shapes[op.output])
            zero = f"{ZERO}.{rank}"
            constants[zero] = np.zeros((1,) * rank)
            shapes[zero] = constants[zero].shape
            op = replace(op, kind="squared_difference", inputs=(op.inputs[0], zero))
        ops.append(op)
    return replace(graph, ops=tuple(ops), constants=constants, shapes=shapes)
