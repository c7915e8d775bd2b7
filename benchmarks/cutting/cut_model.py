"""What ways of cutting start from and what they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from compress.model.load import ModelSpec
from compress.model.vit import SlicedViT

BATCH = 16


@dataclass(frozen=True)
class CutInputs:
    """What a way of cutting starts from.

    Attributes:
        spec: timm's name for the model, and its input.
        model: the whole model; it is not changed.
        images: to calibrate on, ``(N, C, H, W)`` float32, normalised.
        labels: ``(N,)`` int64, known or drawn from the whole model's answers.
        seed: seed of everything random.
    """

    spec: ModelSpec
    model: SlicedViT
    images: torch.Tensor
    labels: torch.Tensor
    seed: int

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields images and labels in order, 16 at a time."""
        yield from zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True)


@dataclass(frozen=True)
class CutModel:
    """A model that has been cut.

    Attributes:
        model: the model.
        back: map ``(C_cut, C_whole)`` from its head's inputs to those of the whole model; None if they are the same.
        offset: ``(C_whole,)``, what is added after the map; None adds nothing.
    """

    model: SlicedViT
    back: torch.Tensor | None
    offset: torch.Tensor | None = None


def selection(kept: tuple[int, ...], width: int) -> torch.Tensor | None:
    """Returns the map back from the kept dimensions of a stream of ``width``: what was removed is zero.

    The head of a sliced model sees the same: its columns are those of the whole head that belong to kept dimensions.
    """
    return None if len(kept) == width else torch.eye(width)[list(kept)]
