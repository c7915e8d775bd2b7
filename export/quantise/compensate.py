"""Rounds weights one input at a time, so that the inputs not yet rounded make up for the error of those that are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from export.graph.execute import Hook, run_graph
from export.graph.ir import LINEAR, Array, Graph, Op, QParams

from .blocks import BLOCK, LEAST_SCALE, as_bfloat16
from .calibrate import TensorStats
from .simulate import correcting_hook, dynamic_inputs, is_dynamic, rounded_constants, rounding_hook

DAMPING = 0.01
"""Part of the mean of the Hessian's diagonal that is added to the diagonal."""

_MOST_SHARE = 0.9
"""Greatest share of the identity in an estimated covariance."""

_ROWS = 4096
"""Number of rows whose squares are summed in float32."""

_BLOCK = 32
"""Number of inputs after whose rounding all later inputs are corrected at once; so few stay in a core's cache."""

_BLOCK_ROUNDS = 2
"""How often a weight in blocks is rounded, with scales fitted to the integers before."""


def compensate_weights(graph: Graph, seen: Mapping[str, TensorStats], images: npt.NDArray[np.float32]) -> Graph:
    """Returns ``graph`` with the weights of every integer Linear rounded under compensation of the error.

    Each Linear is rounded for the inputs that it will get: those of the images after everything before it was rounded,
    weights and activations. The new weights lie on the grid that the graph has already, so the file's integers are
    these; scales of blocks are fitted to their integers once more. A constant that a product of one query reads is
    rounded in the same way, head by head.

    Args:
        graph: a graph of integers.
        seen: statistics of the float graph's activations on the same images.
        images: preprocessed images ``(N, H, W, C)`` float32; all run at once.

    Ref: Frantar et al. 2022 (GPTQ), arXiv 2210.17323, section 3, algorithm 1.
    """
    return _compensated(graph, images, dict(graph.constants), rounding_hook(graph))


def compensate_and_correct(graph: Graph, seen: Mapping[str, TensorStats], images: npt.NDArray[np.float32]) -> Graph:
    """Returns ``graph`` with weights rounded as by ``compensate_weights`` and biases moved as by ``correct_biases``.

    One run of the images does both: the bias of a Linear is corrected as soon as its weight is rounded, so that the
    next layers are rounded for what the corrected ones give them.

    Args:
        graph: a graph of integers.
        seen: statistics of the float graph's activations on the same images.
        images: preprocessed images ``(N, H, W, C)`` float32; all run at once.
    """
    constants = dict(graph.constants)
    return _compensated(graph, images, constants, correcting_hook(graph, seen, constants))


def _compensated(graph: Graph, images: npt.NDArray[np.float32], constants: dict[str, Array], hook: Hook) -> Graph:
    """Returns ``graph`` with compensated weights; ``constants`` gets them, and ``hook`` rounds activations."""
    qparams = dict(graph.qparams)
    latest: dict[tuple[str, bool], list[Compensator]] = {}
    dynamic = dynamic_inputs(graph)

    def before(op: Op, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        x = dynamic(op, inputs)[0]
        if not has_rounded_weight(graph, op):
            return [x, *inputs[1:]]
        key = op.inputs[0], is_dynamic(graph, op)
        if key not in latest:
            latest.clear()
            latest[key] = [Compensator(hessian, damping) for hessian, damping in hessians_of(op, x)]
        name = op.inputs[1]
        if qparams[name].block is not None:
            constants[name], qparams[name] = round_blocks(constants[name], qparams[name], latest[key][0])
        else:
            constants[name] = _rounded(op, constants[name], qparams[name], latest[key])
        return [x, torch.from_numpy(constants[name]).to(x.dtype), *inputs[2:]]

    with torch.no_grad():
        run_graph(graph, torch.from_numpy(images), hook, rounded_constants(graph), before)
    return replace(graph, constants=constants, qparams=qparams)


@dataclass(frozen=True)
class RoundedWeights:
    """The weights of a graph that were rounded under compensation.

    Attributes:
        values: the weights by name, as real numbers on their grids.
        grids: scales and zero points of these weights.
    """

    values: Mapping[str, Array]
    grids: Mapping[str, QParams]

    def put_into(self, graph: Graph) -> Graph:
        """Returns a graph of integers of the same operators with these weights in place of its own."""
        return replace(graph, constants={**graph.constants, **self.values}, qparams={**graph.qparams, **self.grids})


def rounded_weights(graph: Graph) -> RoundedWeights:
    """Returns the weights of a graph that ``compensate_weights`` rounded."""
    names = [op.inputs[1] for op in graph.ops if has_rounded_weight(graph, op)]
    return RoundedWeights({n: graph.constants[n] for n in names}, {n: graph.qparams[n] for n in names})


def round_blocks(weight: Array, grid: QParams, compensator: Compensator) -> tuple[Array, QParams]:
    """Returns a weight rounded in blocks under compensation, as real numbers, and its grid.

    The scales are fitted to the integers by least squares of the output's error, and the weight is rounded again with
    them; this is repeated. An output keeps the round with the least error.

    Args:
        weight: ``(outputs, inputs)``.
        grid: with a scale for each block.
        compensator: for the inputs of the weight.
    """
    real, scales = torch.from_numpy(weight), np.asarray(grid.scale).reshape(len(weight), -1)
    best, best_scales, least = weight, scales, torch.full((len(weight),), torch.inf, dtype=torch.float64)
    for _ in range(_BLOCK_ROUNDS):
        steps = np.repeat(scales, BLOCK, axis=1)
        integers = compensator.rounded(weight, steps, grid.limits[1], grid.limits[0])
        rounded = integers * steps
        error = compensator.error(torch.from_numpy(rounded) - real)
        better = (error < least).numpy()[:, None]
        best, best_scales = np.where(better, rounded, best), np.where(better, scales, best_scales)
        least = torch.minimum(error, least)
        scales = fitted_scales(weight, integers, compensator.hessian.numpy(), scales)
    return best, replace(grid, scale=tuple(map(float, best_scales.reshape(-1))))


def fitted_scales(weight: Array, integers: Array, hessian: Array, scales: Array) -> Array:
    """Returns the scales of blocks with the least error of the output for given integers, as files can hold them.

    Args:
        weight: ``(outputs, inputs)``.
        integers: of the weight.
        hessian: mean of ``x^T x`` over the inputs, ``(inputs, inputs)``.
        scales: ``(outputs, blocks)``, kept where a fit is not positive.
    """
    outputs, blocks = scales.shape
    whole = integers.astype(np.float64)
    target = (whole * (weight @ hessian)).reshape(outputs, blocks, -1).sum(2)
    normal = np.empty((outputs, blocks, blocks))
    for i in range(blocks):
        part = slice(i * BLOCK, (i + 1) * BLOCK)
        normal[:, i] = ((whole[:, part] @ hessian[part]) * whole).reshape(outputs, blocks, -1).sum(2)
    damping = 1e-6 * np.trace(normal, axis1=1, axis2=2) / blocks + 1e-30
    normal += damping[:, None, None] * np.eye(blocks)
    found = np.linalg.solve(normal, target[:, :, None])[:, :, 0]
    within = (found > scales / 2) & (found < scales * 2)
    return as_bfloat16(np.maximum(np.where(within, found, scales), LEAST_SCALE))


def has_rounded_weight(graph: Graph, op: Op) -> bool:
    """Returns whether an operator reads a constant of 8 or 4 bits along the last dimension of its input."""
    if op.kind not in (*LINEAR, "batch_matmul") or op.inputs[1] not in graph.constants:
        return False
    grid = graph.qparams.get(op.inputs[1])
    return grid is not None and grid.dtype in ("int4", "int8") and grid.zero_point == 0


def hessians_of(op: Op, x: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
    """Returns the mean of ``x^T x`` over the rows of an operator's input, ``(inputs, inputs)``, and its damping.

    A Linear has one; a product with one matrix for each head has one for each of these.

    Args:
        op: a Linear, a convolution of patches, or a product with a constant.
        x: its input, with the batch in front.
    """
    if op.kind == "conv_2d":
        (rows, columns), width = op.options["stride"], x.shape[-1]
        x = x.flatten(0, 1).unfold(1, rows, rows).unfold(2, columns, columns)
        x = x.permute(0, 1, 2, 4, 5, 3).reshape(-1, rows * columns * width)
    parts = [x] if op.kind in LINEAR else list(x.flatten(1, -3).unbind(1))
    return [_damped(part.reshape(-1, part.shape[-1])) for part in parts]


def _damped(rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    hessian = _mean_square(rows)
    return hessian, damping_of(rows, hessian)


def damping_of(rows: torch.Tensor, hessian: torch.Tensor) -> float:
    """Returns the part of the mean of the Hessian's diagonal to add to it: ``DAMPING``, or more for too few rows.

    Fewer rows than inputs see only some directions, and an error moved into the others comes back with other images.
    The covariance of the rows is best estimated by a mixture of the observed one and a multiple of the identity. That
    multiple is the damping.

    Args:
        rows: inputs of a Linear, ``(rows, inputs)``.
        hessian: mean of ``x^T x`` over them.

    Ref: Ledoit and Wolf 2004, Journal of Multivariate Analysis 88, lemma 3.2 to 3.5.
    """
    if len(rows) >= rows.shape[-1]:
        return DAMPING
    mean = rows.double().mean(0)
    covariance = hessian - torch.outer(mean, mean)
    size, energy = float(covariance.diagonal().mean()), float(hessian.diagonal().mean())
    apart = float(covariance.square().sum()) - len(covariance) * size**2
    if apart <= 0 or energy <= 0:
        return DAMPING
    fourth = float((rows - mean.to(rows.dtype)).double().square().sum(1).square().mean())
    share = min((fourth - float(covariance.square().sum())) / len(rows) / apart, _MOST_SHARE)
    return max(DAMPING, share / (1 - share) * size / energy)


def _mean_square(rows: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(rows.shape[-1], rows.shape[-1], dtype=torch.float64)
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        total += part.T @ part
    return total / len(rows)


def _rounded(op: Op, weight: Array, grid: QParams, compensators: list[Compensator]) -> Array:
    """Returns a weight on its grid, as real numbers."""
    shape = weight.shape
    if op.kind in LINEAR:
        matrices = [weight.reshape(len(weight), -1)]
    else:
        turned = weight if op.options.get("adj_y") else np.swapaxes(weight, -1, -2)
        matrices = list(turned.reshape(-1, *turned.shape[-2:]))
    steps = np.broadcast_to(np.asarray(grid.scale, np.float64), len(matrices[0]))
    both = zip(matrices, compensators, strict=True)
    found = np.stack([own.rounded(matrix, steps) * steps[:, None] for matrix, own in both])
    if op.kind in LINEAR:
        return found.reshape(shape)
    found = found.reshape(turned.shape)
    return found if op.options.get("adj_y") else np.swapaxes(found, -1, -2)


class Compensator:
    """Rounds weights that read the same inputs.

    Args:
        hessian: mean of ``x^T x`` over the inputs, ``(inputs, inputs)`` float64.
        damping: part of the mean of its diagonal that is added to the diagonal.
    """

    def __init__(self, hessian: torch.Tensor, damping: float = DAMPING) -> None:
        self.hessian = hessian
        diagonal = hessian.diagonal()
        added = damping * float(diagonal.mean()) or 1.0
        self.order = diagonal.argsort(descending=True, stable=True)
        damped = hessian[self.order][:, self.order] + added * torch.eye(len(hessian), dtype=torch.float64)
        # with the order turned round, the inverse of the lower factor is the upper factor of the inverse
        lower = torch.linalg.cholesky(damped.flip(0, 1))
        one = torch.eye(len(hessian), dtype=torch.float64)
        self.upper = torch.linalg.solve_triangular(lower, one, upper=False).flip(0, 1).contiguous()
        self.rough = hessian.float()

    def rounded(self, weight: Array, scales: Array, limit: int = 127, least: int | None = None) -> npt.NDArray[np.int8]:
        """Returns the integers of a weight ``(outputs, inputs)`` on the grid of ``scales``.

        An output whose error plain rounding makes smaller is rounded plainly.

        Args:
            weight: the float weight.
            scales: step of each output's grid, ``(outputs,)``, or of each weight's, ``(outputs, inputs)``.
            limit: greatest integer.
            least: least integer; by default minus ``limit``.
        """
        real, limits = torch.from_numpy(np.asarray(weight, np.float64)), (-limit if least is None else least, limit)
        steps = np.asarray(scales, np.float64)
        steps = steps[:, None] if steps.ndim == 1 else steps
        size = torch.from_numpy(np.array(np.broadcast_to(steps, real.shape)))
        plain = (real / size).round().clamp(*limits)
        # an input is a row here, so that its outputs lie side by side in memory
        rest, turned = real.T[self.order].contiguous(), size.T[self.order].contiguous()
        found = torch.empty_like(rest)
        for start in range(0, len(rest), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(rest)))
            own, upper, errors = rest[block], self.upper[block, block], torch.empty_like(rest[block])
            for j in range(len(own)):
                step = turned[start + j]
                whole = found[start + j] = (own[j] / step).round_().clamp_(*limits)
                errors[j] = (own[j] - whole * step) / upper[j, j]
                own[j + 1 :].addr_(upper[j, j + 1 :], errors[j], alpha=-1)
            rest[block.stop :].addmm_(self.upper[block, block.stop :].T, errors, alpha=-1)
        compensated = torch.empty_like(plain)
        compensated[:, self.order] = found.T
        worse = self.error(compensated * size - real) > self.error(plain * size - real)
        return torch.where(worse[:, None], plain, compensated).to(torch.int8).numpy()

    def error(self, difference: torch.Tensor) -> torch.Tensor:
        """Returns the mean squared error of each output for a difference of weights ``(outputs, inputs)``."""
        small = difference.float()
        return ((small @ self.rough) * small).sum(1, dtype=torch.float64)
