"""Quantisation-aware training: the graph of integers learns to undo what rounding does to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from compress.data.augment import Augmentation, augmentation_for
from compress.data.batches import training_batches
from compress.data.dataset import Dataset
from compress.distill.response import distillation_loss
from compress.evaluate import evaluating
from compress.model.vit import SlicedViT
from export.graph.execute import run_graph
from export.graph.ir import LINEAR, Graph
from export.graph.vit_parts import compares_texts
from runtime import Preprocessing, Progress, silent

from .calibrate import weight_qparams
from .simulate import fake_quantise


@dataclass(frozen=True)
class QatRecipe:
    """Settings of quantisation-aware training.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step.
        lr: peak learning rate of weights and biases; it falls to zero along a cosine.
        teacher_weight: weight of the distillation loss against the loss on labels, 0..1.
        temperature: of the softmax in the distillation loss.
        begin: the first epoch that rounds, counted from 1; the epochs before train in float.
    """

    epochs: int = 1
    batch_size: int = 64
    lr: float = 1e-4
    teacher_weight: float = 0.9
    temperature: float = 4.0
    begin: int = 1


@dataclass(frozen=True)
class FloatStart:
    """The float graph that trains before rounding begins.

    Attributes:
        graph: the float graph that the graph of integers was made from.
        quantised: calibrates a float graph with other weights again, and returns its graph of integers.
    """

    graph: Graph
    quantised: Callable[[Graph], Graph]


def train_quantised(
    graph: Graph,
    teacher: SlicedViT,
    data: Dataset,
    preprocessing: Preprocessing,
    recipe: QatRecipe,
    *,
    before: FloatStart | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Graph:
    """Returns ``graph`` with weights and biases trained under the rounding its file will have.

    Activations keep their ranges once rounding has begun. Weights keep one scale for each output, set by their largest
    value. The optimiser and the learning rate continue when rounding begins.

    Args:
        graph: a calibrated graph of integers.
        teacher: the float model, whose logits are distilled.
        data: source of the training split.
        preprocessing: of the model.
        recipe: settings of the training.
        before: the float graph to train before ``recipe.begin``; needed if that is not the first epoch.
        augmentation: of the training images; None takes the published one for the data.
        seed: of order and augmentation.
        progress: called after every step.

    Ref: Jacob et al. 2018, arXiv 1712.05877, section 3; Hinton et al. 2015, arXiv 1503.02531, for the loss.
    """
    assert recipe.begin == 1 or before is not None, "epochs in float need a graph in float"
    now = before.graph if before and recipe.begin > 1 else graph
    learned = {name: nn.Parameter(torch.from_numpy(now.constants[name]).float()) for name in _trainable(graph)}
    optimiser = torch.optim.AdamW(learned.values(), lr=recipe.lr, weight_decay=0.0)
    steps = recipe.epochs * math.ceil(len(data.train) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    done = 0
    for epoch in range(recipe.epochs):
        if before and 0 < epoch == recipe.begin - 1:
            graph = now = _begun(before, learned)
        batches = training_batches(
            data,
            data.train,
            preprocessing,
            augmentation or augmentation_for(data),
            batch_size=recipe.batch_size,
            seed=seed,
            epoch=epoch,
        )
        for images, labels in batches:
            with evaluating(teacher):
                taught = teacher(images)
            logits = _forward(now, images.permute(0, 2, 3, 1), learned)
            loss = distillation_loss(logits, taught, labels, recipe.teacher_weight, recipe.temperature)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            done += 1
            progress("qat", done, steps)
    return _with_scales(_with_values(graph, learned))


def _begun(before: FloatStart, learned: dict[str, nn.Parameter]) -> Graph:
    """Returns the graph of integers of the weights learnt in float; its biases may be corrected."""
    graph = before.quantised(_with_values(before.graph, learned))
    for name, value in learned.items():
        value.data.copy_(torch.from_numpy(graph.constants[name]))
    return graph


def _with_values(graph: Graph, learned: dict[str, nn.Parameter]) -> Graph:
    """Returns the graph with the learnt weights and biases."""
    values = {name: value.detach().double().numpy() for name, value in learned.items()}
    return replace(graph, constants={**graph.constants, **values})


def _trainable(graph: Graph) -> list[str]:
    """Returns the weights and biases of Linears; constants of norms and positions, and vectors of texts, stay fixed."""
    linears = (op for op in graph.ops if op.kind in LINEAR and not compares_texts(graph, op))
    return [name for op in linears for name in op.inputs[1:]]


def _forward(graph: Graph, images: torch.Tensor, learned: dict[str, nn.Parameter]) -> torch.Tensor:
    constants: dict[str, torch.Tensor] = {}
    for name, value in graph.constants.items():
        grid = graph.qparams.get(name)
        if name in learned:
            constants[name] = _rounded_weight(learned[name]) if grid and grid.dtype == "int8" else learned[name]
        else:
            real = value if grid is None else grid.rounded(value)
            constants[name] = torch.from_numpy(np.asarray(real, np.float32))

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        return fake_quantise(value, graph.qparams[name]) if name in graph.qparams else value

    return run_graph(graph, images, hook, constants)


def _rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    peaks = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-9).reshape(-1, *(1,) * (weight.ndim - 1))
    scaled = weight / (peaks / 127)
    return (scaled + (scaled.round() - scaled).detach()) * (peaks / 127)


def _with_scales(graph: Graph) -> Graph:
    """Returns the graph with the scales of its new weights, and of the biases that depend on them."""
    qparams = dict(graph.qparams)
    for op in graph.ops:
        if op.kind not in LINEAR or op.inputs[1] not in qparams:
            continue
        before = np.asarray(graph.qparams[op.inputs[1]].scale)
        after = weight_qparams(graph.constants[op.inputs[1]])
        qparams[op.inputs[1]] = after
        if len(op.inputs) > 2 and op.inputs[2] in qparams:
            bias = qparams[op.inputs[2]]
            scales = np.asarray(bias.scale) / before * np.asarray(after.scale)
            qparams[op.inputs[2]] = replace(bias, scale=tuple(float(scale) for scale in scales))
    return replace(graph, qparams=qparams)
