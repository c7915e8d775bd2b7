"""Finds norms that a graph computes in single operators, for formats with one operator for a whole norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .ir import Graph, Op


@dataclass(frozen=True)
class Norm:
    """One norm over the last dimension.

    Attributes:
        source: name of the input.
        output: name of the result.
        centred: whether the mean is subtracted, as in LayerNorm; if not, it is an RMSNorm.
        eps: constant added to the variance.
        gain: factor of the variance and of ``eps``: the result is that of a norm without it, times ``gain^-1/2``.
        weight: name of a constant factor for each channel, or None.
        bias: name of a constant added to each channel, or None; RMSNorm has none.
        inside: names of the tensors between ``source`` and ``output``, ``output`` not included.
    """

    source: str
    output: str
    centred: bool
    eps: float
    gain: float
    weight: str | None
    bias: str | None
    inside: frozenset[str]


def readers_of(graph: Graph) -> dict[str, list[Op]]:
    """Returns the operators that read each tensor, each operator once."""
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in dict.fromkeys(op.inputs):
            readers.setdefault(name, []).append(op)
    return readers


def find_norms(graph: Graph) -> dict[str, Norm]:
    """Returns the float norms of ``graph`` by the name of their result.

    A norm counts only if no operator outside it reads a tensor inside it.
    """
    finder = _Finder(graph)
    norms = [finder.norm(op) for op in graph.ops if op.kind == "rsqrt"]
    return {norm.output: norm for norm in norms if norm is not None}


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.readers = graph, readers_of(graph)
        self.producers: Mapping[str, Op] = {op.output: op for op in graph.ops}

    def norm(self, rsqrt: Op) -> Norm | None:
        """Returns the norm around ``rsqrt``: ``x * rsqrt(gain * mean(x * x) + gain * eps)``."""
        shifted = self.producer(rsqrt.inputs[0], "add")
        grown = self.producer(shifted.inputs[0], "mul") if shifted else None
        before = grown or shifted
        variance = self.producer(before.inputs[0], "mean") if before else None
        square = self.producer(variance.inputs[0], "mul") if variance else None
        scaled = self.only_reader(rsqrt.output, "mul")
        if shifted is None or variance is None or square is None or scaled is None:
            return None
        eps, x = self.scalar(shifted.inputs[1]), square.inputs[0]
        gain = self.scalar(grown.inputs[1]) if grown else 1.0
        plain = square.inputs == (x, x) and scaled.inputs == (x, rsqrt.output)
        inside = {square.output, variance.output, shifted.output, rsqrt.output} | ({grown.output} if grown else set())
        alone = all(len(self.readers[name]) == 1 for name in inside) and not inside & set(self.graph.qparams)
        if not plain or not alone or eps is None or gain is None or variance.options["axis"] != (-1,):
            return None
        centre = self.centring(x, {square.output, scaled.output})
        source = x
        if centre is not None:
            inside |= {x, centre.output}
            source = centre.inputs[0]
        return self.with_affine(source, scaled, centre is not None, eps / gain, gain, inside)

    def with_affine(self, source: str, scaled: Op, centred: bool, eps: float, gain: float, inside: set[str]) -> Norm:
        """Returns the norm with the weight, and for LayerNorm the bias, that follow it."""
        output, weight, bias = scaled.output, None, None
        factor = self.only_reader(output, "mul")
        if factor is not None and self.row(factor, source):
            inside, weight, output = inside | {output}, factor.inputs[1], factor.output
            added = self.only_reader(output, "add")
            if centred and added is not None and self.row(added, source):
                inside, bias, output = inside | {output}, added.inputs[1], added.output
        return Norm(source, output, centred, eps, gain, weight, bias, frozenset(inside))

    def centring(self, x: str, readers: set[str]) -> Op | None:
        """Returns the mean that was subtracted for ``x``, if only ``readers`` read the difference."""
        difference = self.producer(x, "sub")
        if difference is None or {op.output for op in self.readers[x]} != readers:
            return None
        mean = self.producer(difference.inputs[1], "mean")
        if mean is None or mean.inputs[0] != difference.inputs[0] or mean.options["axis"] != (-1,):
            return None
        return mean if len(self.readers[mean.output]) == 1 else None

    def row(self, op: Op, like: str) -> bool:
        """Returns whether the second input is a constant with one value for each channel of ``like``."""
        value = self.graph.constants.get(op.inputs[1])
        return value is not None and value.size == value.shape[-1] == self.graph.shapes[like][-1]

    def scalar(self, name: str) -> float | None:
        """Returns a constant that is one number, else None."""
        value = self.graph.constants.get(name)
        return float(np.ravel(value)[0]) if value is not None and value.size == 1 else None

    def producer(self, name: str, kind: str) -> Op | None:
        op = self.producers.get(name)
        return op if op is not None and op.kind == kind else None

    def only_reader(self, name: str, kind: str) -> Op | None:
        readers = self.readers.get(name, [])
        if len(readers) != 1 or readers[0].kind != kind or name in self.graph.qparams:
            return None
        op = readers[0]
        return None if op.output in self.graph.qparams else op
