"""Computes a graph of integers in torch with the rounding its file will have, to correct, rank and train it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from export.graph.execute import run_graph
from export.graph.ir import LINEAR, Graph, QParams

from .calibrate import Stats


def rounded(value: torch.Tensor, grid: QParams) -> torch.Tensor:
    """Returns ``value`` on the grid; its gradient is that of the identity inside the range, and zero outside.

    Ref: straight-through estimator, Bengio et al. 2013, arXiv 1308.3432.
    """
    low, high = grid.limits
    scale = torch.from_numpy(np.asarray(grid.spread(value.ndim))).to(value.dtype)
    steps = torch.clamp(value / scale + grid.zero_point, low, high)
    return (steps + (steps.round() - steps).detach() - grid.zero_point) * scale


def simulate(graph: Graph, images: npt.NDArray[np.float32], batch: int = 16) -> npt.NDArray[np.float32]:
    """Returns the logits ``(N, classes)`` of a graph with integers, rounded where its file rounds.

    What ``dynamic`` operators do to their input is left out: they round it far more finely than anything else is.
    """
    constants = rounded_constants(graph)

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        return rounded(value, graph.qparams[name]) if name in graph.qparams else value

    with torch.no_grad():
        parts = [
            run_graph(graph, torch.from_numpy(images[start : start + batch]), hook, constants)
            for start in range(0, len(images), batch)
        ]
    return torch.cat(parts).numpy()


def rounded_constants(graph: Graph) -> dict[str, torch.Tensor]:
    """Returns every constant as the file holds it, float32."""
    values = {}
    for name, value in graph.constants.items():
        grid = graph.qparams.get(name)
        real = value if grid is None else grid.rounded(value)
        values[name] = torch.from_numpy(np.asarray(real, np.float32))
    return values


def correct_biases(graph: Graph, seen: Mapping[str, Stats], images: npt.NDArray[np.float32]) -> Graph:
    """Moves every Linear's bias by the mean error that rounding before and in it has made.

    Layer after layer in one pass: each sees the corrections of those before it.

    Args:
        graph: of integers.
        seen: the float graph's activations on the same images.
        images: ``(N, H, W, C)``, all run at once.

    Ref: Nagel et al. 2019, arXiv 1906.04721, section 4.2.
    """
    biases = {op.output: op.inputs[2] for op in graph.ops if op.kind in LINEAR and len(op.inputs) > 2}
    moved = dict(graph.constants)

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        if name in biases and name in seen:
            error = torch.from_numpy(seen[name].mean).to(value.dtype) - value.mean(dim=tuple(range(value.ndim - 1)))
            value = value + error
            moved[biases[name]] = moved[biases[name]] + error.double().numpy()
        return rounded(value, graph.qparams[name]) if name in graph.qparams else value

    with torch.no_grad():
        run_graph(graph, torch.from_numpy(images), hook, rounded_constants(graph))
    return replace(graph, constants=moved)
