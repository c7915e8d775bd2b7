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
from .devices import autocast, copy_on, device_in_use, device_of
from .distributed import ALONE, Ranks
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
    """Returns the model's logits ``(N, classes)`` float32 for the pictures at ``indices``, in order.

    They are computed where the model is.
    """
    parts, device = [], device_of(model)
    with evaluating(model), autocast(device, bf16):
        for images, _ in plain_batches(data, indices, spec, batch_size):
            parts.append(model(images.to(device)).float().cpu().numpy())
    return np.concatenate(parts)


def score(
    model: nn.Module,
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    *,
    bf16: bool = False,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> Score:
    """Returns accuracy and loss of ``model`` on the pictures at ``indices``.

    Args:
        model: the model; left as and where it is.
        data: the dataset.
        indices: which pictures.
        spec: the model's input.
        bf16: compute under bfloat16 autocast.
        device: where to compute; by default where ``use_device`` says.
        ranks: who computes a share of it each; every one of them must call this.
    """
    there = copy_on(model, device or device_in_use())
    own = indices[ranks.share(len(indices))]
    # a rank without a share still has to say how many classes there are
    mine = logits_of(there, data, own if len(own) else indices[:1], spec, bf16=bf16)
    logits = ranks.whole(torch.from_numpy(mine), len(indices))
    labels = torch.from_numpy(data.labels[indices])
    right = int((logits.argmax(dim=1) == labels).sum())
    top1, loss = ranks.agreed(right / len(labels), float(F.cross_entropy(logits, labels)))
    return Score(top1, loss, len(labels))
