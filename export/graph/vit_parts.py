"""The parts that the graph of a Vision Transformer is built of: norms, residual writes, heads and tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime import OutputForm, ShapePlan

from .ir import LINEAR, Array, Builder, Graph, Op
from .rewrites import Rewrites, Scales

INPUT = "image"
OUTPUTS: dict[OutputForm, str] = {
    "classes": "logits",
    "vector": "vector",
    "unit_vector": "vector",
    "grid": "features",
}
"""Name of the output of a graph, by what a model answers with."""

UNIT = "unit.normed"
"""Name of the vector that is scaled to the mean square 1, before it is shortened to length 1 or compared with texts."""

COPIED = ".copies"
"""End of the name of the answers of several copies of a row, whose mean is the output."""

LEAST_HALF = 2.0**-24
"""The smallest positive number of float16; less than half of it is rounded to zero."""


@dataclass(frozen=True)
class Normed:
    """Tokens after a norm, and the affine map that is left to the Linears that read them."""

    name: str
    weight: Array | None = None
    bias: Array | None = None


def compares_texts(graph: Graph, op: Op) -> bool:
    """Returns whether an operator is the Linear of a zero-shot classifier, whose rows are the vectors of texts."""
    own = op.output.removesuffix(COPIED)
    return own == graph.output and op.kind in LINEAR and op.inputs[0].partition(".for.")[0] == UNIT


def half_gain(eps: float, width: int, always: bool = False) -> float:
    """Returns the factor of a norm's mean of squares and of its epsilon, with which float16 keeps the epsilon.

    It is 1 where float16 has the epsilon as it is. Else it is the largest power of four that is at most ``width``: the
    mean of squares becomes at most their sum. Its square root, a power of two, goes into the Linears that read the
    norm.

    Args:
        eps: the epsilon.
        width: number of channels that the mean is taken over.
        always: whether an epsilon that float16 has is grown, too.

    >>> half_gain(1e-6, 384), half_gain(1e-6 / 64, 384), half_gain(1e-6 / 64, 48)
    (1.0, 256.0, 16.0)
    """
    return 1.0 if eps >= LEAST_HALF and not always else 4.0 ** ((width.bit_length() - 1) // 2)


class VitParts:
    """Writes parts of a Vision Transformer into a graph.

    Args:
        plan: the model's shape.
        weights: its tensors by name, float64.
        rewrites: which exact rewrites to make.
        scales: factors of channels.
    """

    def __init__(self, plan: ShapePlan, weights: dict[str, Array], rewrites: Rewrites, scales: Scales) -> None:
        self.plan, self.weights, self.rewrites, self.scales = plan, weights, rewrites, scales
        self.g = Builder((1, *plan.img_size, plan.in_chans), INPUT)
        self.output = OUTPUTS[plan.output]
        self.batch = () if rewrites.flat else (1,)
        born = plan.norm_type == "rms"
        # without a last norm the head would see what centring takes away, and blocks that read the stream itself do
        self.centre = rewrites.centre and plan.norm != "none" and not born and plan.block_kind != "post"
        self.rms = self.centre or born
        self.stream_scale = scales.stream if self.rms else None
        assert self.stream_scale is None or (rewrites.fold_norm and rewrites.fold_scale), "scales need folded norms"

    def norm(self, x: str, name: str, fold: bool | None = None, own_eps: float | None = None) -> Normed:
        """Adds a norm of ``x``; its affine is left to the Linears behind it where ``fold`` or the rewrites say.

        Args:
            x: the norm's input.
            name: the norm's name.
            fold: see above.
            own_eps: epsilon of a LayerNorm outside the residual stream, whose input is neither centred nor scaled.
        """
        g, rank = self.g, len(self.g.shapes[x])
        width, eps = g.shapes[x][-1], self.plan.eps_of(name) if own_eps is None else own_eps
        early = name in ("norm_pre", "patch_norm")
        dim = width if early or own_eps else self.plan.norm_dim or width
        weight, bias = self.weights.get(f"{name}.weight"), self.weights.get(f"{name}.bias")
        if not self.rms or own_eps:
            mean = g.op("mean", [x], f"{name}.mean", axis=(-1,))
            x = g.op("sub", [x, mean], f"{name}.centred")
        square = self.square(x, f"{name}.square")
        if self.stream_scale is None or own_eps or (self.plan.pre_dim and early):
            variance = g.op("mean", [square], f"{name}.variance", axis=(-1,))
            # the mean over the dimensions that a cut left is larger than the mean over all
            gain = half_gain(eps * dim / width, width, self.rewrites.half)
            plain = isinstance(self.plan.norm_eps, float) and dim == width and gain == 1 and not own_eps
            if gain > 1:
                grown = g.constant(f"{name}.gain", np.full((1,) * rank, gain))
                variance = g.op("mul", [variance, grown], f"{name}.variance_gain")
            added = g.constant("norm_eps" if plain else f"{name}.eps", np.full((1,) * rank, gain * eps * dim / width))
            variance = g.op("add", [variance, added], f"{name}.variance_eps")
            if gain * dim != width:
                weight = np.full(width, np.sqrt(gain * dim / width)) * (1 if weight is None else weight)
        else:
            share = self.stream_scale**2 / dim
            variance = g.linear(square, share[None], np.full(1, eps), f"{name}.variance")
            weight = self.stream_scale if weight is None else weight * self.stream_scale
        x = g.op("mul", [x, g.op("rsqrt", [variance], f"{name}.rsqrt")], f"{name}.normed")
        if self.rewrites.fold_norm if fold is None else fold:
            return Normed(x, weight, bias)
        row = (1,) * (rank - 1) + (-1,)
        if weight is not None:
            x = g.op("mul", [x, g.constant(f"{name}.weight", weight.reshape(row))], f"{name}.scaled")
        if bias is not None:
            x = g.op("add", [x, g.constant(f"{name}.bias", bias.reshape(row))], f"{name}.out")
        return Normed(x)

    def unit_length(self, x: str) -> str:
        """Adds operators that scale a vector to length 1; a vector of zeros stays."""
        x, width = self.unit_mean_square(x), self.g.shapes[x][-1]
        length = self.g.constant("unit.length", np.full((1,) * len(self.g.shapes[x]), width**-0.5))
        return self.g.op("mul", [x, length], self.output)

    def compared(self, x: str) -> str:
        """Adds the Linear of a vector of length 1 whose rows are the vectors of texts, which take the length."""
        weight, bias = self.weights["text.weight"], self.weights["text.bias"]
        return self.g.linear(self.unit_mean_square(x), weight * weight.shape[1] ** -0.5, bias, self.output)

    def unit_mean_square(self, x: str) -> str:
        """Adds operators that scale a vector to the mean square 1; a vector of zeros stays."""
        g, rank = self.g, len(self.g.shapes[x])
        mean = g.op("mean", [self.square(x, "unit.square")], "unit.variance", axis=(-1,))
        mean = g.op("add", [mean, g.constant("unit.eps", np.full((1,) * rank, LEAST_HALF))], "unit.variance_eps")
        return g.op("mul", [x, g.op("rsqrt", [mean], "unit.rsqrt")], UNIT)

    def square(self, x: str, name: str) -> str:
        """Adds the squares of ``x``."""
        if not self.rewrites.half:
            return self.g.op("mul", [x, x], name)
        rank = len(self.g.shapes[x])
        return self.g.op("squared_difference", [x, self.g.constant(f"zero.{rank}", np.zeros((1,) * rank))], name)

    def affine(self, x: Normed, name: str, factor: float = 1.0) -> tuple[Array, Array | None]:
        """Returns weight and bias of the Linear ``name``, with the norm's affine and ``factor`` in them."""
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        if x.bias is not None:
            bias = weight @ x.bias + (0 if bias is None else bias)
        if x.weight is not None:
            weight = weight * x.weight
        return weight * factor, None if bias is None else bias * factor

    def write(self, stream: str, x: str, weight: Array, bias: Array | None, index: int, gamma: str, name: str) -> str:
        """Adds a Linear of ``x`` to the residual stream."""
        g, scale = self.g, self.weights.get(f"blocks.{index}.{gamma}")
        if scale is not None and self.rewrites.fold_scale:
            weight, bias, scale = weight * scale[:, None], None if bias is None else bias * scale, None
        if scale is None:
            weight, bias = self.written(weight), None if bias is None else self.written(bias)
        x = g.linear(x, weight, bias, name)
        if self.plan.block_kind == "post":
            x = self.norm(x, f"blocks.{index}.norm{gamma[-1]}", fold=False).name
        if scale is not None:
            row = (1,) * (len(g.shapes[x]) - 1) + (-1,)
            x = g.op("mul", [x, g.constant(f"blocks.{index}.{gamma}", scale.reshape(row))], f"{name}.scaled")
            if self.centre:
                mean = g.op("mean", [x], f"{name}.mean", axis=(-1,))
                x = g.op("sub", [x, mean], f"{name}.centred")
        return g.op("add", [stream, x], f"{name}.stream")

    def written(self, value: Array, axis: int = 0) -> Array:
        """Returns a weight or bias that writes into the residual stream, centred and scaled as the rewrites say."""
        if self.centre:
            value = value - value.mean(axis=axis, keepdims=True)
        if self.stream_scale is None:
            return value
        shape = [1] * value.ndim
        shape[axis] = -1
        return value / self.stream_scale.reshape(shape)

    def activated(self, x: str, weight: Array, bias: Array | None, name: str, act_name: str) -> str:
        """Adds a Linear and the activation of MLPs."""
        relu = self.plan.act == "relu"
        hidden = self.g.linear(x, weight, bias, name, act="relu" if relu else "none")
        return hidden if relu else self.activation(hidden, act_name)

    def activation(self, x: str, name: str) -> str:
        """Adds the activation of MLPs."""
        g, act = self.g, self.plan.act
        if act in ("gelu", "gelu_tanh"):
            return g.op("gelu", [x], name, approximate=act == "gelu_tanh")
        inside = x
        if act == "quick_gelu":
            factor = g.constant("quick_gelu", np.full((1,) * len(g.shapes[x]), 1.702))
            inside = g.op("mul", [x, factor], f"{name}.inside")
        return g.op("mul", [x, g.op("logistic", [inside], f"{name}.logistic")], name)

    def heads(self, x: str, count: int, name: str) -> str:
        """Maps ``(…, N, heads * d)`` to ``(…, heads, N, d)``."""
        *batch, n, width = self.g.shapes[x]
        if n == 1 or count == 1:
            return self.g.op("reshape", [x], f"{name}.heads", shape=(*batch, count, n, width // count))
        x = self.g.op("reshape", [x], f"{name}.split", shape=(*batch, n, count, width // count))
        rank = len(batch) + 3
        return self.g.op("transpose", [x], f"{name}.heads", perm=(*range(rank - 3), rank - 2, rank - 3, rank - 1))

    def joined(self, x: str, name: str) -> str:
        """Maps ``(…, heads, N, d)`` to ``(…, N, heads * d)``."""
        *batch, count, n, width = self.g.shapes[x]
        if n > 1 and count > 1:
            rank = len(batch) + 3
            perm = (*range(rank - 3), rank - 2, rank - 3, rank - 1)
            x = self.g.op("transpose", [x], f"{name}.rows", perm=perm)
        return self.g.op("reshape", [x], f"{name}.joined", shape=(*batch, n, count * width))

    def pooled(self, x: str, name: str) -> str:
        """Adds the mean over the tokens that the head reads."""
        skip = self.plan.num_prefix_tokens if self.plan.pooling in ("avg", "token_and_avg") else 0
        if skip:
            count = self.g.shapes[x][-2] - skip
            x = self.first(x, count, f"{name}.patches", begin=skip)
        return self.g.op("mean", [x], name, axis=(-2,))

    def first(self, x: str, rows: int, name: str, begin: int = 0) -> str:
        """Adds a slice of ``rows`` tokens from ``begin``."""
        *batch, n, width = self.g.shapes[x]
        if rows == n:
            return x
        start, size = (*(0 for _ in batch), begin, 0), (*batch, rows, width)
        return self.g.op("slice", [x], name, begin=start, size=size)

    def tokens(self, name: str, value: Array) -> str:
        """Adds a constant in the shape of tokens."""
        return self.g.constant(name, value.reshape((*self.batch, *value.shape)))
