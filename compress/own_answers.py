"""A model's own answers in place of labels, where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn

from compress.data.batches import Batch
from compress.data.dataset import UNLABELLED
from compress.data.search_images import SearchImages

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


def answered(images: SearchImages, model: nn.Module, bf16: bool = False) -> SearchImages:
    """Returns a Search Set in which every picture has a label: its own or, without one, the model's top-1 class."""
    size = batch_for(images.spec, device_in_use())
    labels = [labels for _, labels in with_answers(images.batches(size), model, bf16)]
    return replace(images, labels=torch.cat(labels).numpy())
