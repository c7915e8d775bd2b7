"""A model's own answers in place of labels, where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from compress.data.batches import Batch
from compress.data.dataset import UNLABELLED
from compress.data.search_images import SearchImages
from compress.model.vit import SlicedViT

from .devices import autocast, copy_on, device_in_use
from .evaluate import batch_for, evaluating


def with_answers(batches: Iterable[Batch], model: nn.Module, bf16: bool = False) -> Iterator[Batch]:
    """Yields batches in which every picture has a label: its own or, without one, the top-1 class of the model.

    Args:
        batches: images ``(B, C, H, W)`` with labels ``(B,)`` int64, ``UNLABELLED`` where there is none.
        model: the model that answers; it stays as it is.
        bf16: compute under bfloat16 autocast.
    """
    device = device_in_use()
    there = copy_on(model, device)
    for images, labels in batches:
        if bool((labels != UNLABELLED).all()):
            yield images, labels
            continue
        with evaluating(there), autocast(device, bf16):
            answers = there(images.to(device)).argmax(dim=1).to(labels.device)
        yield images, torch.where(labels == UNLABELLED, answers, labels)


def _index_of(images: SearchImages, model: nn.Module, size: int, bf16: bool) -> npt.NDArray[np.float32]:
    """Returns the vectors of a model for a Search Set, of length 1, ``(N, D)`` float32."""
    device = device_in_use()
    there = copy_on(model, device)
    with evaluating(there), autocast(device, bf16):
        parts = [there(pixels.to(device)).float().cpu() for pixels, _ in images.batches(size)]
    index: npt.NDArray[np.float32] = F.normalize(torch.cat(parts), dim=1).numpy()
    return index


def answered(images: SearchImages, model: nn.Module, bf16: bool = False) -> SearchImages:
    """Returns a Search Set in which every picture has a label: its own or, without one, the model's top-1 class.

    Of a model that answers with vectors, the label is the number of the picture, and the vectors become the index.
    """
    size = batch_for(images.spec, device_in_use())
    if isinstance(model, SlicedViT) and model.plan.is_vector:
        return replace(images, labels=np.arange(len(images)), index=_index_of(images, model, size, bf16))
    labels = [labels for _, labels in with_answers(images.batches(size), model, bf16)]
    return replace(images, labels=torch.cat(labels).numpy())
