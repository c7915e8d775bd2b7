"""TFLite's float operators in numpy, in float32 or with every result rounded to float16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_RELU, _RELU6 = 1, 3


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are rounded.

    Attributes:
        half: whether every result is rounded to float16; else it is float32.
        step: number of products that are added before their sum is rounded. XNNPACK's float16 kernels round after
            every product.
        newton: whether a reciprocal root squares its estimate, as XNNPACK's float16 kernel does. The square is
            infinite, and the root not a number, for arguments below 1 / 65,504.
    """

    half: bool = False
    step: int = 1
    newton: bool = False

    def rounded(self, x: Array) -> Array:
        """Returns ``x`` in float32, rounded as the arithmetic says; what is too large for float16 becomes infinite."""
        x = np.asarray(x, np.float32)
        if not self.half:
            return x
        with np.errstate(over="ignore", invalid="ignore"):
            return x.astype(np.float16).astype(np.float32)

    def product(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        """Returns ``a @ b + bias`` for ``a`` of shape ``(…, n, k)`` and ``b`` of shape ``(…, k, m)``."""
        with np.errstate(over="ignore", invalid="ignore"):
            if not self.half:
                exact: Array = a @ b
                return exact if bias is None else exact + bias
            shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
            total = np.zeros(shape, np.float32) if bias is None else np.broadcast_to(bias, shape).astype(np.float32)
            for k in range(0, a.shape[-1], self.step):
                total = self.rounded(total + a[..., k : k + self.step] @ b[..., k : k + self.step, :])
            return total


@dataclass(frozen=True)
class Node:
    """An operator with its inputs.

    Attributes:
        options: TFLite's table of options, or None.
        inputs: the values, None for one that is left out.
        arithmetic: how to round.
    """

    options: Any
    inputs: Sequence[Any]
    arithmetic: Arithmetic


Compute = Callable[[Node], Array]


def _activated(node: Node, x: Array) -> Array:
    kind = getattr(node.options, "fusedActivationFunction", 0)
    if kind == _RELU:
        return np.asarray(np.maximum(x, 0))
    return np.asarray(np.clip(x, 0, 6)) if kind == _RELU6 else x


def _fully_connected(node: Node) -> Array:
    x, weight, *bias = node.inputs
    rows = x.reshape(-1, weight.shape[1])
    found = node.arithmetic.product(rows, weight.T, bias[0] if bias else None)
    if node.options.keepNumDims:
        found = found.reshape(*x.shape[:-1], weight.shape[0])
    return _activated(node, found)


def _conv_2d(node: Node) -> Array:
    x, weight, *bias = node.inputs
    outputs, rows, columns, channels = weight.shape
    down, across = node.options.strideH, node.options.strideW
    if node.options.padding == 0:
        x = _padded_same(x, (rows, columns), (down, across))
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), axis=(1, 2))[:, ::down, ::across]
    patches = windows.transpose(0, 1, 2, 4, 5, 3)
    flat = patches.reshape(-1, rows * columns * channels)
    found = node.arithmetic.product(flat, weight.reshape(outputs, -1).T, bias[0] if bias else None)
    return _activated(node, found.reshape(*patches.shape[:3], outputs))


def _padded_same(x: Array, kernel: tuple[int, int], stride: tuple[int, int]) -> Array:
    pads = []
    for size, width, step in zip(x.shape[1:3], kernel, stride, strict=True):
        more = max(0, (-(-size // step) - 1) * step + width - size)
        pads.append((more // 2, more - more // 2))
    return np.pad(x, [(0, 0), *pads, (0, 0)])


def _batch_matmul(node: Node) -> Array:
    a, b = node.inputs
    a = a.swapaxes(-1, -2) if node.options.adjX else a
    b = b.swapaxes(-1, -2) if node.options.adjY else b
    return node.arithmetic.product(a, b)


def _softmax(node: Node) -> Array:
    own = node.arithmetic
    x = node.inputs[0] * np.float32(node.options.beta)
    powers = own.rounded(np.exp(own.rounded(x - x.max(-1, keepdims=True))))
    inverse = own.rounded(1 / own.rounded(powers.sum(-1, keepdims=True)))
    return powers * inverse


def _gelu(node: Node) -> Array:
    x = node.inputs[0]
    if node.options.approximate:
        return np.asarray(0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / np.sqrt(np.float32(2)))))


def erf(x: Array) -> Array:
    """Returns the error function within 1.5e-7.

    Ref: Abramowitz and Stegun 1964, equation 7.1.26.

    >>> round(float(erf(np.array(0.5))), 5)
    0.5205
    """
    size = np.abs(x)
    t = 1 / (1 + 0.3275911 * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.copysign(1 - series * np.exp(-(np.minimum(size, 100.0) ** 2)), x))


def _rsqrt(node: Node) -> Array:
    root = node.arithmetic.rounded(1 / np.sqrt(node.inputs[0]))
    if not node.arithmetic.newton:
        return root
    return np.where(np.isfinite(node.arithmetic.rounded(root * root)), root, np.nan)


def _axes(node: Node) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.ravel(node.inputs[1]))


def _mean(node: Node) -> Array:
    return np.asarray(node.inputs[0].mean(_axes(node), keepdims=bool(node.options.keepDims), dtype=np.float32))


def _sum(node: Node) -> Array:
    return np.asarray(node.inputs[0].sum(_axes(node), keepdims=bool(node.options.keepDims), dtype=np.float32))


def _slice(node: Node) -> Array:
    x, begin, size = node.inputs
    spans = zip(begin, size, x.shape, strict=True)
    return np.asarray(x[tuple(slice(int(b), int(b + n) if n >= 0 else whole) for b, n, whole in spans)])


def _concatenation(node: Node) -> Array:
    return _activated(node, np.concatenate(list(node.inputs), node.options.axis))


def _reshape(node: Node) -> Array:
    shape = node.inputs[1] if len(node.inputs) > 1 else node.options.newShape
    return np.asarray(node.inputs[0].reshape(tuple(int(n) for n in shape)))


def _pair(function: Callable[[Array, Array], Array]) -> Compute:
    return lambda node: _activated(node, function(node.inputs[0], node.inputs[1]))


def _single(function: Callable[[Array], Array]) -> Compute:
    return lambda node: function(node.inputs[0])


COMPUTE: Mapping[str, Compute] = {
    "FULLY_CONNECTED": _fully_connected,
    "CONV_2D": _conv_2d,
    "BATCH_MATMUL": _batch_matmul,
    "ADD": _pair(np.add),
    "SUB": _pair(np.subtract),
    "MUL": _pair(np.multiply),
    "DIV": _pair(np.divide),
    "MAXIMUM": _pair(np.maximum),
    "MINIMUM": _pair(np.minimum),
    "SQUARED_DIFFERENCE": _pair(lambda a, b: (a - b) ** 2),
    "SOFTMAX": _softmax,
    "GELU": _gelu,
    "LOGISTIC": _single(lambda x: 1 / (1 + np.exp(-x))),
    "TANH": _single(np.tanh),
    "RELU": _single(lambda x: np.maximum(x, 0)),
    "EXP": _single(np.exp),
    "NEG": _single(np.negative),
    "ABS": _single(np.abs),
    "SQUARE": _single(np.square),
    "SQRT": _single(np.sqrt),
    "RSQRT": _rsqrt,
    "MEAN": _mean,
    "SUM": _sum,
    "RESHAPE": _reshape,
    "EXPAND_DIMS": lambda node: np.asarray(np.expand_dims(node.inputs[0], int(np.ravel(node.inputs[1])[0]))),
    "TRANSPOSE": lambda node: np.asarray(node.inputs[0].transpose(tuple(int(n) for n in node.inputs[1]))),
    "CONCATENATION": _concatenation,
    "SLICE": _slice,
    "DEQUANTIZE": _single(lambda x: x),
}
"""How each operator is computed, by TFLite's name."""

MOVING = ("RESHAPE", "EXPAND_DIMS", "TRANSPOSE", "CONCATENATION", "SLICE", "DEQUANTIZE")
"""Operators that move values and compute none."""
