"""What a model says of a split, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from runtime import Preprocessing

from .dataset import Dataset
from .loading import plain_batches


@dataclass(frozen=True)
class Score:
    """Accuracy of a model on a split.

    Attributes:
        top1: share of images whose most likely class is right, 0..1.
        loss: mean cross-entropy, nats.
        images: number of images.
    """

    top1: float
    loss: float
    images: int


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` into evaluation mode without gradients, and back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def logits_of(
    model: nn.Module,
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    *,
    bf16: bool = False,
    batch_size: int = 64,
) -> npt.NDArray[np.float32]:
    """Returns the model's logits ``(N, classes)`` float32 for the pictures at ``indices``, in order."""
    parts = []
    with evaluating(model), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for images, _ in plain_batches(data, indices, spec, batch_size):
            parts.append(model(images).float().numpy())
    return np.concatenate(parts)


def score(
    model: nn.Module, data: Dataset, indices: npt.NDArray[np.int64], spec: Preprocessing, *, bf16: bool = False
) -> Score:
    """Returns accuracy and loss of ``model`` on the pictures at ``indices``."""
    logits = torch.from_numpy(logits_of(model, data, indices, spec, bf16=bf16))
    labels = torch.from_numpy(data.labels[indices])
    right = int((logits.argmax(dim=1) == labels).sum())
    return Score(right / len(labels), float(F.cross_entropy(logits, labels)), len(labels))
