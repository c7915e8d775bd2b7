"""Learns the integer ranges of a graph's activations by what rounding does to the graph's answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.graph.execute import run_graph
from export.graph.ir import LINEAR, Array, Graph, QParams

from .fitted_head import last_linear
from .integer import FIXED, PASSING
from .simulate import rounded_constants

_BATCH = 8
_STEPS = (20, 80)
_IMAGE_MACS = 7e11
_MACS_AT_ONCE = 9e9
"""MACs of the images whose gradients are computed together, which bounds the memory."""

_LR, _ZERO_LR, _WARMUP = 0.006, 0.36, 0.1
_LOGITS = 0.5
_FIXED_ZEROS = (-128, 0, 127)


@dataclass(frozen=True)
class _Grids:
    """The grids that are learnt, each shared by the tensors whose values lie on it.

    Attributes:
        start: their scales and zero points.
        of: position in ``start`` of the grid of each tensor.
        free: whether the zero point of each may move.
    """

    start: tuple[QParams, ...]
    of: dict[str, int]
    free: torch.Tensor


def learn_ranges(
    graph: Graph,
    plain: Graph,
    images: npt.NDArray[np.float32],
    macs: int,
    done: Callable[[int, int], None] = lambda step, steps: None,
) -> Graph:
    """Returns ``graph`` with scales and zero points of its activations learnt by gradient descent; weights stay.

    Ranges of least error weigh all values of a tensor alike, but the answers do not depend on all alike. Here every
    scale, and every zero point that is not at an end of the integers or at 0, is moved to lessen the mean of two
    relative squared errors: that of the outputs, and that of the inputs of the Linear that computes them. Gradients
    pass a rounding as if it were not there. The grids of the image and of the outputs stay as they are.

    Args:
        graph: a graph of int8 throughout.
        plain: the float graph it was made from.
        images: preprocessed images ``(N, H, W, C)`` float32, N at least 2; no label is needed.
        macs: of the model for one image; the number of steps falls with it, from 80 to 20 of 8 images each.
        done: called after every step with its number and the number of steps.

    Ref: Esser et al. 2020 (arXiv 1902.08153), eq. 3, the gradient of a step size; Bhalgat et al. 2020
        (arXiv 2004.09576), eq. 5 and 6, that of a zero point. Both train the weights, too.
    """
    grids = _grids(graph)
    watched = _watched(graph)
    outputs, inner = _answers(plain, images, watched)
    scales = nn.Parameter(torch.tensor([math.log(own.scale[0]) for own in grids.start]))
    zeros = nn.Parameter(torch.tensor([float(own.zero_point) for own in grids.start]))
    steps = int(max(_STEPS[0], min(_STEPS[1], _IMAGE_MACS / max(macs, 1) / _BATCH)))
    optimiser = torch.optim.Adam(
        [{"params": [scales], "lr": _LR}, {"params": [zeros], "lr": 60 * _LR}], betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, steps))
    rounding = _Rounding(graph, grids, scales, zeros, watched)
    rounds = math.ceil(steps * _BATCH / len(images))
    order = np.concatenate([np.random.default_rng([7, n]).permutation(len(images)) for n in range(rounds)])
    together = int(max(1, min(_BATCH, _MACS_AT_ONCE / max(macs, 1))))
    for step in range(steps):
        picked = order[step * _BATCH : (step + 1) * _BATCH]
        optimiser.zero_grad()
        for start in range(0, _BATCH, together):
            part = picked[start : start + together]
            found = run_graph(graph, torch.from_numpy(images[part]), rounding.of_tensor, rounding.constants())
            loss = _LOGITS * _relative_error(found, outputs[part], outputs)
            loss = loss + (1 - _LOGITS) * _relative_error(rounding.seen, inner[part], inner)
            (loss * len(part) / _BATCH).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        done(step + 1, steps)
    return _with_grids(graph, grids, scales.detach(), zeros.detach())


class _Rounding:
    """Rounds tensors to grids that are being learnt."""

    def __init__(
        self, graph: Graph, grids: _Grids, scales: torch.Tensor, zeros: torch.Tensor, watched: tuple[str, str]
    ) -> None:
        self.graph, self.grids, self.scales, self.zeros, self.inner = graph, grids, scales, zeros, watched[1]
        self.start = torch.tensor([float(own.zero_point) for own in grids.start])
        self.fixed = rounded_constants(graph)
        of = graph.qparams
        moving = [op for op in graph.ops if op.kind in PASSING and op.output in of]
        self.moved = {op.output for op in moving if of[op.output] == of.get(op.inputs[0])}
        self.seen = torch.empty(0)

    def constants(self) -> dict[str, torch.Tensor]:
        """Returns the constants; those that lie on a grid of activations are rounded to it as it is now."""
        moved = {
            name: self.rounded(torch.from_numpy(np.asarray(value, np.float32)), self.grids.of[name])
            for name, value in self.graph.constants.items()
            if name in self.grids.of
        }
        return self.fixed | moved

    def of_tensor(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Returns the value of a computed tensor on its grid; one that was only moved lies on it already."""
        if name in self.moved:
            pass
        elif name in self.grids.of:
            value = self.rounded(value, self.grids.of[name])
        elif name in self.graph.qparams:
            own = self.graph.qparams[name]
            value = _Rounded.apply(value, torch.tensor(own.scale[0]), torch.tensor(float(own.zero_point)), own.limits)
        if name == self.inner:
            self.seen = value
        return value

    def rounded(self, value: torch.Tensor, place: int) -> torch.Tensor:
        """Returns a value on a grid; its scale and zero point have gradients."""
        zero = self.zeros[place].clamp(-127, 126) if self.grids.free[place] else self.start[place]
        rounded: torch.Tensor = _Rounded.apply(value, self.scales[place].exp(), zero, self.grids.start[place].limits)
        return rounded


class _Rounded(torch.autograd.Function):
    """Values on a grid: ``(clamp(round(value / scale) + zero) - zero) * scale``."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, limits: Any) -> torch.Tensor:
        """Rounds, and keeps what the gradients need."""
        steps = value / scale
        zero = zero.round()
        whole = steps.round().clamp_(limits[0] - zero, limits[1] - zero)
        inside = (steps - whole).abs_() <= 0.5
        ctx.save_for_backward(steps, whole, inside, scale)
        return whole * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of a rounding that inside the range passes them on, and outside is the end of the range."""
        steps, whole, inside, scale = ctx.saved_tensors
        passed = gradients[0] * inside
        outside = gradients[0].sum() - passed.sum()
        of_scale = (gradients[0] * whole).sum() - (passed * steps).sum()
        return passed, of_scale, -scale * outside, None


def _share(step: int, steps: int) -> float:
    """Returns the share of the peak learning rate: it rises for a tenth of the steps and falls along a cosine."""
    warm = min(1.0, (step + 1) / max(1.0, _WARMUP * steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _relative_error(found: torch.Tensor, wanted: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
    """Returns the squared error over the mean square of all wanted values; copies of a row are averaged first."""
    if found.numel() > wanted.numel():
        found = found.reshape(len(wanted), -1, wanted.shape[-1]).mean(1)
    return (found.reshape(wanted.shape) - wanted).square().mean() / every.square().mean().clamp_min(1e-30)


def _watched(graph: Graph) -> tuple[str, str]:
    """Returns the output and the input of the last Linear; twice the output if it is not of a Linear."""
    last = last_linear(graph)
    return graph.output, graph.output if last is None else last.inputs[0]


def _answers(
    plain: Graph, images: npt.NDArray[np.float32], watched: tuple[str, str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the outputs of the float graph, and the values of the watched tensor, of all images."""
    outputs, inner = [], []

    def look(name: str, value: torch.Tensor) -> torch.Tensor:
        if name == watched[1]:
            inner.append(value)
        return value

    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            outputs.append(run_graph(plain, torch.from_numpy(images[start : start + _BATCH]), look))
    return torch.cat(outputs), torch.cat(inner)


def _grids(graph: Graph) -> _Grids:
    """Returns the grids that may be learnt.

    Tensors whose values are only moved, and the parts of a concatenation, have equal grids and share one. Grids that
    the engines prescribe, and those of the image and the outputs, are left out.
    """
    prescribed = set(FIXED["int8"].values()) | {graph.qparams[graph.input], graph.qparams[graph.output]}
    readers = {name for op in graph.ops if op.kind in (*LINEAR, "batch_matmul") for name in op.inputs[1:]}
    places: dict[QParams, int] = {}
    of: dict[str, int] = {}
    for name, own in graph.qparams.items():
        is_weight = name in graph.constants and name in readers
        if own.dtype == "int8" and len(own.scale) == 1 and own not in prescribed and not is_weight:
            of[name] = places.setdefault(own, len(places))
    computed = {place for name, place in of.items() if name not in graph.constants}
    start = tuple(places)
    return _Grids(
        start,
        {name: place for name, place in of.items() if place in computed},
        torch.tensor([own.zero_point not in _FIXED_ZEROS for own in start]),
    )


def _with_grids(graph: Graph, grids: _Grids, scales: torch.Tensor, zeros: torch.Tensor) -> Graph:
    """Returns the graph with the learnt grids, and the scales of biases that follow from them."""
    learnt = [
        replace(
            own,
            scale=(math.exp(float(scale)),),
            zero_point=round(min(max(float(zero), -127.0), 126.0)) if free else own.zero_point,
        )
        for own, scale, zero, free in zip(grids.start, scales, zeros, grids.free.tolist(), strict=True)
    ]
    qparams: dict[str, QParams] = dict(graph.qparams) | {name: learnt[place] for name, place in grids.of.items()}
    for op in graph.ops:
        if op.kind in LINEAR and len(op.inputs) > 2 and op.inputs[2] in qparams:
            steps: Array = np.asarray(qparams[op.inputs[1]].scale) * qparams[op.inputs[0]].scale[0]
            qparams[op.inputs[2]] = replace(qparams[op.inputs[2]], scale=tuple(float(step) for step in steps))
    return replace(graph, qparams=qparams)
