"""Simulates a graph of integers in torch with the rounding of its file, and corrects its biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from export.graph.execute import Before, run_graph
from export.graph.ir import LINEAR, Graph, Op, QParams

from .calibrate import TensorStats


def fake_quantise(value: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """Returns ``value`` rounded to the integers of ``qparams`` and back to float.

    The gradient is that of the identity inside the range, and zero outside.

    Ref: straight-through estimator, Bengio et al. 2013, arXiv 1308.3432.
    """
    low, high = qparams.limits
    scale = torch.from_numpy(np.asarray(qparams.spread(value.ndim))).to(value.dtype)
    steps = torch.clamp(value / scale + qparams.zero_point, low, high)
    return (steps + (steps.round() - steps).detach() - qparams.zero_point) * scale


def rounded_rows(value: torch.Tensor) -> torch.Tensor:
    """Returns ``value`` rounded row by row to 256 steps from its least to its greatest entry, 0 among them.

    The engine rounds the input of a ``dynamic`` operator like this.
    """
    low, high = value.amin(-1, keepdim=True).clamp(max=0.0), value.amax(-1, keepdim=True).clamp(min=0.0)
    scale = ((high - low) / 255).clamp_min(1e-30)
    zero = (-128 - low / scale).round().clamp(-128, 127)
    return ((value / scale + zero).round().clamp(-128, 127) - zero) * scale


def dynamic_inputs(graph: Graph) -> Before:
    """Returns a function for ``run_graph`` that rounds the float input of every operator with an int8 weight."""

    def before(op: Op, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [rounded_rows(inputs[0]), *inputs[1:]] if is_dynamic(graph, op) else inputs

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
    constants = rounded_constants(graph)

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        return fake_quantise(value, graph.qparams[name]) if name in graph.qparams else value

    with torch.no_grad():
        parts = [
            run_graph(graph, torch.from_numpy(images[start : start + batch]), hook, constants, dynamic_inputs(graph))
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
    biases = {op.output: op.inputs[2] for op in graph.ops if op.kind in LINEAR and len(op.inputs) > 2}
    moved = dict(graph.constants)

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        if name in biases and name in seen:
            error = torch.from_numpy(seen[name].mean).to(value.dtype) - value.mean(dim=tuple(range(value.ndim - 1)))
            value = value + error
            moved[biases[name]] = moved[biases[name]] + error.double().numpy()
        return fake_quantise(value, graph.qparams[name]) if name in graph.qparams else value

    with torch.no_grad():
        run_graph(graph, torch.from_numpy(images), hook, rounded_constants(graph), dynamic_inputs(graph))
    return replace(graph, constants=moved)
