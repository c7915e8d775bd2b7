"""Fits the last Linear of a graph of integers to what rounding left of its inputs.

The classifier of a rounded model reads features that are no longer those it was trained for. Its weights are moved to
those whose answers are nearest to the float model's, by least squares that hold on to the weights it has (ridge
regression: Hoerl and Kennard 1970, Technometrics 12(1), eq. 2.1). No label is used.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from export.graph.ir import LINEAR, Array, Graph, Op, QParams

from .calibrate import weight_qparams
from .compensate import Compensator

_RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of the hold on the old classifier that are tried, in mean variances of a feature."""

_LEAST_GAIN = 0.01
"""Least share of the squared error that a fit must take off images it has not seen."""

_LEAST_IMAGES = 16
"""Fewer images than this tell nothing about those that are left out."""

_FEATURES = "features"


def last_linear(graph: Graph) -> Op | None:
    """Returns the Linear that computes the one row of the output, or whose rows' mean it is; None if there is none."""
    if math.prod(graph.shapes[graph.output][:-1]) > 1:
        return None
    made_by = {op.output: op for op in graph.ops}
    last = made_by.get(graph.output)
    while last is not None and last.kind in ("reshape", "mean"):
        last = made_by.get(last.inputs[0])
    return last if last is not None and last.kind in LINEAR else None


def features_graph(graph: Graph, head: Op) -> Graph:
    """Returns the part of ``graph`` that computes the inputs of its last Linear, all rows in one ``(1, rows * C)``."""
    source = head.inputs[0]
    size = math.prod(graph.shapes[source])
    flat = Op("reshape", (source,), _FEATURES, {"shape": (1, size)})
    needed, ops = {_FEATURES}, []
    for op in (flat, *reversed(graph.ops)):
        if op.output in needed:
            needed.update(op.inputs)
            ops.append(op)
    kept = needed | {graph.input}
    grids = {name: grid for name, grid in graph.qparams.items() if name in kept}
    if source in grids:
        grids[_FEATURES] = grids[source]
    return Graph(
        graph.input,
        _FEATURES,
        tuple(reversed(ops)),
        {name: value for name, value in graph.constants.items() if name in kept},
        {name: shape for name, shape in graph.shapes.items() if name in kept} | {_FEATURES: (1, size)},
        grids,
    )


def fitted_head(graph: Graph, head: Op, features: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> Graph:
    """Returns ``graph`` with another last Linear, or ``graph`` itself where that would not help.

    How strongly the old weights are held is what serves images best that were left out of the fit, each half of the
    images in turn.

    Args:
        graph: a graph of integers.
        head: its last Linear, with int8 weights of one scale for each output, and a bias.
        features: outputs of ``features_graph`` on some images, ``(N, rows * C)``; rows are averaged.
        logits: of the float model on these images, ``(N, classes)``.
    """
    if len(features) < _LEAST_IMAGES:
        return graph
    now, bias, rows = _parts(graph, head, features)
    x = rows.mean(axis=1)
    missing = logits - (x @ now.T + bias)
    halves = np.arange(len(x)) % 2 == 0
    errors = {ridge: sum(_error(x, missing, half, ridge) for half in (halves, ~halves)) for ridge in _RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    if errors[best] > (1 - _LEAST_GAIN) * float(np.square(missing).sum()):
        return graph
    after, grid = _rounded_fit(x, now + _fit(x, missing, best)[0])
    # the mean of what rounding the weights changes goes into the bias
    shift = (missing - x @ (after - now).T).mean(axis=0)
    if np.square(missing - x @ (after - now).T - shift).sum() > np.square(missing).sum():
        return graph
    constants, grids = dict(graph.constants), dict(graph.qparams)
    constants[head.inputs[1]], constants[head.inputs[2]] = after, bias + shift
    grids[head.inputs[1]] = grid
    if head.inputs[2] in grids:
        steps = np.asarray(grids[head.inputs[1]].scale) * grids[head.inputs[0]].scale[0]
        grids[head.inputs[2]] = replace(grids[head.inputs[2]], scale=tuple(float(step) for step in steps))
    return replace(graph, constants=constants, qparams=grids)


def logits_from(graph: Graph, head: Op, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns what ``graph`` computes from the inputs of its last Linear, ``(N, classes)``.

    Args:
        graph: a graph of integers.
        head: its last Linear.
        features: outputs of ``features_graph`` on some images, ``(N, rows * C)``.
    """
    weight, bias, rows = _parts(graph, head, features)
    each = _on_grid(graph, head.output, rows @ weight.T + bias)
    answers: npt.NDArray[np.float32] = _on_grid(graph, graph.output, each.mean(axis=1)).astype(np.float32)
    return answers


def _parts(graph: Graph, head: Op, features: npt.NDArray[np.float32]) -> tuple[Array, Array, Array]:
    """Returns the rounded weights ``(classes, C)``, the bias, and the inputs ``(N, rows, C)``, in float64."""
    weight, bias = (graph.constants[name] for name in head.inputs[1:3])
    rows = features.reshape(len(features), -1, weight.shape[1]).astype(np.float64)
    return graph.qparams[head.inputs[1]].rounded(weight), bias, rows


def _on_grid(graph: Graph, name: str, values: Array) -> Array:
    """Returns values of a tensor as the file has them."""
    return graph.qparams[name].rounded(values) if name in graph.qparams else values


def _fit(x: Array, missing: Array, ridge: float) -> tuple[Array, Array]:
    """Returns what to add to the weights ``(classes, C)`` and to the bias, for answers that lack ``missing``."""
    centre, mean = x.mean(axis=0), missing.mean(axis=0)
    gram = _covariance(x)
    hold = ridge * max(float(np.trace(gram)) / len(gram), 1e-30) * np.eye(len(gram))
    change = np.linalg.solve(gram + hold, (x - centre).T @ (missing - mean) / len(x)).T
    return change, mean - change @ centre


def _rounded_fit(x: Array, weight: Array) -> tuple[Array, QParams]:
    """Returns weights rounded under compensation for inputs ``x``, whose mean a bias takes care of, and their grid."""
    grid = weight_qparams(weight)
    steps = np.asarray(grid.scale)
    return Compensator(torch.from_numpy(_covariance(x))).rounded(weight, steps) * steps[:, None], grid


def _covariance(x: Array) -> Array:
    """Returns the covariance ``(C, C)`` of inputs ``(N, C)``."""
    apart = x - x.mean(axis=0)
    found: Array = apart.T @ apart / len(x)
    return found


def _error(x: Array, missing: Array, seen: npt.NDArray[np.bool_], ridge: float) -> float:
    """Returns the squared error on images that were not ``seen``, after a fit to those that were."""
    change, shift = _fit(x[seen], missing[seen], ridge)
    return float(np.square(missing[~seen] - x[~seen] @ change.T - shift).sum())
