"""How closely a model follows the whole model it was made of: same answers, same features. It needs no labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.distill.outputs import Network, outputs_of
from compress.distill.response import soft_loss
from compress.model.coordinates import Coordinates, of_head_input
from runtime import CountedModel, ModelError, Preprocessing, Progress, ShapePlan, silent

from .devices import CPU, autocast, copy_on, device_in_use
from .distributed import ALONE, Ranks
from .evaluate import batch_for, evaluating
from .vectors import Vectors, mean_cosine, neighbours_kept, vectors_sqnr_db

MOST_IMAGES = 2000
"""Most images that two models are compared on: the standard error of a share is then 1.1 points or less."""


_MOST_VALUES = 2**24
"""Most values of all grids that are compared: 64 MB for each model."""


@dataclass(frozen=True)
class Fidelity:
    """How closely a model follows another one on some images.

    Attributes:
        agreement: share of images with the other model's top-1 class, 0..1; None for vectors.
        divergence: mean of ``KL(other || own)`` of the softmax of the logits, nats; None for vectors.
        cosine: mean cosine of the classifier's inputs, or of the vectors that the models answer with, -1..1; None where
            they have other coordinates. Of grids, it is the mean over all patches.
        images: number of images.
        neighbours: share of images whose nearest neighbour among the other model's vectors is kept, see
            ``compress.vectors.neighbours_kept``; None for classes, and for few images.
        sqnr_db: signal to noise of the vectors, dB; None for classes, and for equal vectors.
        own_neighbours: ``neighbours`` in an index of the model's own vectors.
    """

    agreement: float | None
    divergence: float | None
    cosine: float | None
    images: int
    neighbours: float | None = None
    sqnr_db: float | None = None
    own_neighbours: float | None = None


@dataclass(frozen=True, eq=False)
class NetworkAnswers:
    """What a model answers to some images, float32 on the CPU.

    Attributes:
        logits: ``(N, classes)``, or the vectors or grids of a model that answers with them.
        features: the classifier's input, ``(N, C)``; None where it was not asked for.
        vectors: whether the model answers with vectors.
    """

    logits: torch.Tensor
    features: torch.Tensor | None = None
    vectors: bool = False


def some_images(indices: npt.NDArray[np.int64], seed: int, most: int = MOST_IMAGES) -> npt.NDArray[np.int64]:
    """Returns at most ``most`` random ``indices``, sorted."""
    return np.sort(np.random.default_rng([seed, 6]).permutation(indices)[:most])


def images_to_compare(plan: ShapePlan | CountedModel) -> int:
    """Returns the most images that models of a plan are compared on: fewer where each has a large grid."""
    return max(1, min(MOST_IMAGES, _MOST_VALUES // math.prod(plan.output_shape)))


def answers_of(
    network: Network,
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    *,
    features: bool = True,
    bf16: bool = False,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
    progress: Progress = silent,
    stage: str = "compare",
) -> NetworkAnswers:
    """Returns the answers of a network to the pictures at ``indices``, in order.

    Args:
        network: a ``SlicedViT``, a timm network, or an exported file, which has no features.
        data: the dataset.
        indices: indices of the pictures, at least one.
        spec: the network's input.
        features: whether to return the classifier's input, too.
        bf16: compute under bfloat16 autocast.
        device: device that computes; None takes the device in use.
        ranks: processes that compute a share each; every one of them must call this function.
        progress: called after every batch.
        stage: name of the work, for progress.

    Raises:
        ModelError: features are asked of a network that has none.
    """
    device = device or device_in_use()
    there = copy_on(network, device) if isinstance(network, nn.Module) else network
    own = indices[ranks.share(len(indices))]
    own = own if len(own) else indices[:1]  # a rank without a share still needs the number of classes
    logits, inputs, done = [], [], 0
    for images, _ in plain_batches(data, own, spec, batch_for(spec, device)):
        if isinstance(there, nn.Module):
            with evaluating(there), autocast(device, bf16):
                outputs = outputs_of(there, images.to(device), embedding=features)
        else:
            outputs = outputs_of(there, images, embedding=features)
        logits.append(outputs.logits.to(CPU))
        if outputs.embedding is not None:
            inputs.append(outputs.embedding.to(CPU))
        done += len(images)
        progress(stage, done, len(own))
    gathered = ranks.gather(torch.cat(logits), len(indices))
    plan = getattr(network, "plan", None)
    vectors = isinstance(plan, ShapePlan) and plan.is_vector
    return NetworkAnswers(gathered, ranks.gather(torch.cat(inputs), len(indices)) if features else None, vectors)


def compared(student: NetworkAnswers, teacher: NetworkAnswers, back: Coordinates | None = None) -> Fidelity:
    """Returns how closely ``student`` follows ``teacher``.

    Args:
        student: the answers of the model to judge.
        teacher: the answers of the model it should follow, to the same images.
        back: the map from the student's coordinates into the teacher's; None where they are
            the same. There is no cosine without it where the widths differ. Vectors need no map: those of a cut model
            have the whole model's coordinates.

    Raises:
        ModelError: the models have another number of classes, or ``back`` is of another shape.
    """
    if student.logits.shape != teacher.logits.shape:
        raise ModelError(
            "The models to compare have other classes",
            expected=tuple(teacher.logits.shape),
            got=tuple(student.logits.shape),
        )
    if teacher.vectors:
        return _of_vectors(student.logits.numpy(), teacher.logits.numpy())
    same = student.logits.argmax(dim=1) == teacher.logits.argmax(dim=1)
    divergence = soft_loss(student.logits.double(), teacher.logits.double(), 1.0)
    cosine = _cosine(student.features, teacher.features, back)
    return Fidelity(float(same.double().mean()), max(0.0, float(divergence)), cosine, len(same))


def _of_vectors(own: Vectors, wanted: Vectors) -> Fidelity:
    kept, rebuilt = (neighbours_kept(own, wanted, rebuilt=one) for one in (False, True))
    return Fidelity(None, None, mean_cosine(own, wanted), len(own), kept, vectors_sqnr_db(own, wanted), rebuilt)


def _cosine(own: torch.Tensor | None, other: torch.Tensor | None, back: Coordinates | None) -> float | None:
    if own is None or other is None:
        return None
    if back is not None:
        if tuple(back.matrix.shape) != (own.shape[1], other.shape[1]):
            raise ModelError(
                "The map back into the whole model's coordinates is of another shape",
                expected=(own.shape[1], other.shape[1]),
                got=tuple(back.matrix.shape),
            )
        own = back.of(own)
    if own.shape != other.shape:
        return None
    return float(F.cosine_similarity(own.double(), other.double(), dim=1).mean())


def fidelity(
    student: Network,
    teacher: Network,
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    *,
    back: Coordinates | None = None,
    progress: Progress = silent,
    stage: str = "compare",
) -> Fidelity:
    """Returns how closely one model follows another one with the same input on the pictures at ``indices``.

    Args:
        student: the model to judge.
        teacher: the model it should follow.
        data: the dataset; its labels are not used.
        indices: indices of the pictures, at least one.
        spec: the input of both.
        back: see ``compared``.
        progress: called after every batch.
        stage: name of the work, for progress.

    Raises:
        ModelError: the models have another number of classes, or ``back`` is of another shape.
    """
    own, other = (
        answers_of(network, data, indices, spec, progress=progress, stage=stage) for network in (student, teacher)
    )
    plan = getattr(student, "plan", None)
    return compared(own, other, of_head_input(plan, back) if isinstance(plan, ShapePlan) else back)


def selection(kept: tuple[int, ...], width: int) -> Coordinates:
    """Returns the map back into ``width`` coordinates of a stream that lost units; the others keep their place."""
    return Coordinates(torch.eye(width)[list(kept)], torch.zeros(width))
