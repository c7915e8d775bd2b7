"""Simulates a graph of integers in torch with the rounding of its file, and corrects its biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from export.graph.execute import Before, Hook, run_graph
from export.graph.ir import LINEAR, Array, Graph, Op, QParams

from .calibrate import TensorStats
from .integer import PASSING


def fake_quantise(value: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """Returns ``value`` rounded to the integers of ``qparams`` and back to float.

    The gradient is that of the identity inside the range, and zero outside.

    Ref: straight-through estimator, Bengio et al. 2013, arXiv 1308.3432.
    """
    low, high = qparams.limits
    scale = torch.from_numpy(np.asarray(qparams.spread(value.ndim))).to(value.dtype)
    steps = torch.clamp(value / scale + qparams.zero_point, low, high)
    return (steps + (steps.round() - steps).detach() - qparams.zero_point) * scale


def nearest(value: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """Returns ``value`` rounded as by ``fake_quantise``, in a third of the time and without a gradient."""
    low, high = qparams.limits
    scale = torch.from_numpy(np.asarray(qparams.spread(value.ndim))).to(value.dtype)
    return (value / scale).round_().clamp_(low - qparams.zero_point, high - qparams.zero_point).mul_(scale)


def rounding_hook(graph: Graph) -> Hook:
    """Returns a function for ``run_graph`` that rounds every computed tensor of integers, without a gradient.

    Tensors whose values were only moved lie on their grid already.
    """
    grids = {name: grid for name, grid in graph.qparams.items() if name not in graph.constants}
    for op in graph.ops:
        if op.kind in PASSING and op.output in grids and grids[op.output] == graph.qparams.get(op.inputs[0]):
            del grids[op.output]

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        return nearest(value, grids[name]) if name in grids else value

    return hook


def rounded_rows(value: torch.Tensor) -> torch.Tensor:
    """Returns ``value`` rounded row by row to 256 steps from its least to its greatest entry, 0 among them.

    The engine rounds the input of a ``dynamic`` operator like this.
    """
    low, high = value.amin(-1, keepdim=True).clamp(max=0.0), value.amax(-1, keepdim=True).clamp(min=0.0)
    scale = ((high - low) / 255).clamp_min(1e-30)
    zero = (-128 - low / scale).round().clamp(-128, 127)
    return (value / scale).round_().clamp_(-128 - zero, 127 - zero).mul_(scale)


def dynamic_inputs(graph: Graph) -> Before:
    """Returns a function for ``run_graph`` that rounds the float input of every operator with an int8 weight.

    An input that several operators read one after another is rounded once.
    """
    latest: list[torch.Tensor] = []

    def before(op: Op, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        if not is_dynamic(graph, op):
            return inputs
        if not latest or latest[0] is not inputs[0]:
            latest[:] = inputs[0], rounded_rows(inputs[0])
        return [latest[1], *inputs[1:]]

    return before


def is_dynamic(graph: Graph, op: Op) -> bool:
    """Returns whether an operator has a float input and an int8 weight."""
    return (
        op.kind in (*LINEAR, "batch_matmul")
        and op.inputs[1] in graph.constants
        and op.inputs[1] in graph.qparams
        and op.inputs[0] not in graph.qparams
    )


def simulate(graph: Graph, images: npt.NDArray[np.float32], batch: int = 16) -> npt.NDArray[np.float32]:
    """Returns the logits ``(N, classes)`` float32 of a graph of integers, rounded where its file rounds.

    Args:
        graph: from ``quantise``.
        images: preprocessed images ``(N, H, W, C)`` float32.
        batch: number of images computed at a time.
    """
    constants, hook, before = rounded_constants(graph), rounding_hook(graph), dynamic_inputs(graph)
    with torch.no_grad():
        parts = [
            run_graph(graph, torch.from_numpy(images[start : start + batch]), hook, constants, before)
            for start in range(0, len(images), batch)
        ]
    return torch.cat(parts).numpy()


def rounded_constants(graph: Graph) -> dict[str, torch.Tensor]:
    """Returns every constant float32, rounded as in the file."""
    values = {}
    for name, value in graph.constants.items():
        grid = graph.qparams.get(name)
        real = value if grid is None else grid.rounded(value)
        values[name] = torch.from_numpy(np.asarray(real, np.float32))
    return values


def correct_biases(graph: Graph, seen: Mapping[str, TensorStats], images: npt.NDArray[np.float32]) -> Graph:
    """Returns ``graph`` with every Linear's bias moved by the mean error that rounding causes in its output.

    One pass goes through the layers in order, so that each takes the corrections before it into account.

    Args:
        graph: a graph of integers.
        seen: statistics of the float graph's activations on the same images.
        images: preprocessed images ``(N, H, W, C)`` float32; all run at once.

    Ref: Nagel et al. 2019, arXiv 1906.04721, section 4.2.
    """
    constants = dict(graph.constants)
    hook = correcting_hook(graph, seen, constants)
    with torch.no_grad():
        run_graph(graph, torch.from_numpy(images), hook, rounded_constants(graph), dynamic_inputs(graph))
    return replace(graph, constants=constants)


def correcting_hook(graph: Graph, seen: Mapping[str, TensorStats], constants: dict[str, Array]) -> Hook:
    """Returns a function for ``run_graph`` that rounds, and moves every Linear's bias by its output's mean error.

    Args:
        graph: a graph of integers.
        seen: statistics of the float graph's activations on the same images.
        constants: of the graph; the function replaces biases in it.
    """
    biases = {op.output: op.inputs[2] for op in graph.ops if op.kind in LINEAR and len(op.inputs) > 2}
    rounding = rounding_hook(graph)

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        if name in biases and name in seen:
            error = torch.from_numpy(seen[name].mean).to(value.dtype) - value.mean(dim=tuple(range(value.ndim - 1)))
            value = value + error
            constants[biases[name]] = constants[biases[name]] + error.double().numpy()
        return rounding(name, value)

    return hook
