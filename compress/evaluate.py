"""Logits, accuracy and loss of a model on a split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from runtime import Preprocessing, Progress, silent

from .devices import autocast, copy_on, device_in_use, device_of
from .distributed import ALONE, Ranks

_BATCH, _LEAST_BATCH = 64, 8
_BATCH_PIXELS = 2**19
"""Pixels per batch on a CPU: small batches of large images are faster, since activations stay in the cache."""


@dataclass(frozen=True)
class Score:
    """Accuracy of a model on a split.

    Attributes:
        top1: share of images whose most likely class is correct, 0..1.
        loss: mean cross-entropy, nats.
        images: number of images.
    """

    top1: float
    loss: float
    images: int


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` into evaluation mode without gradients for the block, and restores its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


MOST_OFF = 1e-3
"""A change of basis in float32 moves outputs by less than this share of the largest."""


def off_by(changed: nn.Module, model: nn.Module, images: torch.Tensor) -> float:
    """Returns the largest difference of two models' outputs as a share of the largest output of ``model``."""
    with torch.no_grad():
        before, after = model(images), changed(images)
    return float((after - before).abs().max() / before.abs().max().clamp_min(1e-12))


def batch_for(spec: Preprocessing, device: torch.device) -> int:
    """Returns the number of images of a batch that is fast on a device."""
    most = _BATCH_PIXELS // (spec.height * spec.width) if device.type == "cpu" else _BATCH
    return min(_BATCH, max(_LEAST_BATCH, most))


def logits_of(
    model: nn.Module,
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    *,
    bf16: bool = False,
    batch_size: int = 0,
    progress: Progress = silent,
    stage: str = "evaluate",
) -> npt.NDArray[np.float32]:
    """Returns the model's logits ``(N, classes)`` float32 for the pictures at ``indices``, in order.

    The model computes on its own device, in batches of ``batch_size``; 0 takes a size that suits the images.
    ``progress`` is called with ``stage`` after every batch.
    """
    parts, device, done = [], device_of(model), 0
    batch_size = batch_size or batch_for(spec, device)
    with evaluating(model), autocast(device, bf16):
        for images, _ in plain_batches(data, indices, spec, batch_size):
            parts.append(model(images.to(device)).float().cpu().numpy())
            done += len(images)
            progress(stage, done, len(indices))
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
    progress: Progress = silent,
    stage: str = "evaluate",
) -> Score:
    """Returns accuracy and loss of ``model`` on the pictures at ``indices``.

    Args:
        model: the model; it stays as it is, on its device.
        data: the dataset.
        indices: indices of the pictures.
        spec: the model's input.
        bf16: compute under bfloat16 autocast.
        device: device that computes; None takes the device in use.
        ranks: processes that compute a share each; every one of them must call this function.
        progress: called after every batch.
        stage: name of the work, for progress.
    """
    there = copy_on(model, device or device_in_use())
    own = indices[ranks.share(len(indices))]
    # a rank without a share still needs the number of classes
    own = own if len(own) else indices[:1]
    mine = logits_of(there, data, own, spec, bf16=bf16, progress=progress, stage=stage)
    logits = ranks.gather(torch.from_numpy(mine), len(indices))
    found = score_of_logits(logits.numpy(), data.labels[indices])
    top1, loss = ranks.broadcast_floats(found.top1, found.loss)
    return Score(top1, loss, found.images)


def score_of_logits(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Score:
    """Returns accuracy and loss of logits ``(N, classes)`` for the classes ``labels`` ``(N,)``, N at least 1."""
    right = int((logits.argmax(axis=1) == labels).sum())
    loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    return Score(right / len(labels), loss, len(labels))
