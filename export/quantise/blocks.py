"""Weights of 4 bits with one scale for each block of inputs, as XNNPACK multiplies them (``qb4w``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.ir import Array, Graph, QParams

BLOCK = 32
"""Number of neighbouring inputs that share a scale; LiteRT takes multiples of 32."""

LEAST_SCALE = 2.0**-14
"""The least scale that float16 stores with the bits of a bfloat16."""

_SHRINK = np.linspace(1.0, 0.55, 19)
"""Tried scales over the one that puts a block's peak on 7; 7/8 is among them, which puts a negative peak on -8."""


def takes_blocks(weight: Array) -> bool:
    """Returns whether a weight is a matrix whose number of inputs is a multiple of a block."""
    return weight.ndim == 2 and weight.shape[1] % BLOCK == 0


def block_qparams(weight: Array) -> QParams:
    """Returns symmetric scales of a weight ``(outputs, inputs)`` for integers of -8 to 7, one for each block.

    Of the scales that clip up to 45 % of a block's peak, each block takes that with the least squared error. Files hold
    scales as float16 and XNNPACK computes with bfloat16, so they are rounded to what both can hold.

    Args:
        weight: a matrix for which ``takes_blocks`` is true.
    """
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    peaks = np.abs(blocks).max(-1) / 7
    best, least = as_bfloat16(np.maximum(peaks, LEAST_SCALE)), np.full(peaks.shape, np.inf)
    for shrink in _SHRINK:
        scales = as_bfloat16(np.maximum(peaks * shrink, LEAST_SCALE))
        rounded = np.clip(np.round(blocks / scales[..., None]), -8, 7) * scales[..., None]
        error = np.square(rounded - blocks).sum(-1)
        better = error < least
        best, least = np.where(better, scales, best), np.where(better, error, least)
    return QParams(tuple(float(scale) for scale in best.reshape(-1)), 0, "int4", block=BLOCK)


def weights_left_int8(graph: Graph) -> tuple[str, ...]:
    """Returns the names of the int8 weights of a graph that has weights in blocks; none for other graphs.

    They are products' constants, and matrices whose number of inputs is no multiple of a block.
    """
    weights = {name: graph.qparams[name] for name in graph.constants if name in graph.qparams}
    if not any(grid.block for grid in weights.values()):
        return ()
    return tuple(name for name, grid in weights.items() if grid.dtype == "int8" and grid.axis is not None)


def as_bfloat16(values: Array) -> npt.NDArray[np.float64]:
    """Returns float64 values rounded to the nearest bfloat16."""
    bits: npt.NDArray[Any] = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    real: npt.NDArray[np.float64] = rounded.astype(np.uint32).view(np.float32).astype(np.float64)
    return real
