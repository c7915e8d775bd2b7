"""A teacher's view of the student's training pictures: the same crop at the teacher's size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import torch

from compress.data.augment import Augmentation
from compress.data.batches import training_batches
from compress.data.dataset import Dataset
from compress.distributed import ALONE, Ranks
from runtime import Preprocessing

_LUMA = (0.299, 0.587, 0.114)


def teacher_views(
    data: Dataset,
    student: Preprocessing,
    teacher: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    skip: int = 0,
    ranks: Ranks = ALONE,
) -> Iterator[torch.Tensor | None]:
    """Yields the teacher's pictures ``(B, C, H, W)`` for each of the student's training batches.

    Teacher and student must see the same view (arXiv 2106.05237). Every picture has another random generator, so that
    its crop and mirroring are the same at any size; so is its jitter, unless only the teacher sees colour.

    Args:
        data: the dataset.
        student: the student's input.
        teacher: the teacher's input.
        augmentation: random changes to the pictures.
        batch_size: pictures per batch.
        seed: seed of order and augmentation, as the student's.
        epoch: epoch number from 0.
        skip: leave out this many batches at the start.
        ranks: processes that train together; each gets the pictures of its share, as in ``training_batches``.

    Yields:
        None where ``seen_by`` computes the teacher's pictures from the student's.
    """
    if _same_pixels(student, teacher):
        yield from repeat(None)
        return
    channels = teacher.channels if data.channels == teacher.channels == 3 else student.channels
    plain = replace(teacher, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    order = {"batch_size": batch_size, "seed": seed, "epoch": epoch, "skip": skip}
    batches = training_batches(data, data.train, plain, augmentation, ranks=ranks, **order)
    for pixels, _ in batches:
        yield _normalised(_with_channels(pixels, teacher.channels), teacher)


def seen_by(images: torch.Tensor, student: Preprocessing, teacher: Preprocessing) -> torch.Tensor:
    """Normalises the student's pictures ``(B, C, H, W)`` anew for a teacher of the same size and channels."""
    if (student.mean, student.std) == (teacher.mean, teacher.std):
        return images
    return _normalised(images * _per_channel(student.std) + _per_channel(student.mean), teacher)


def _same_pixels(a: Preprocessing, b: Preprocessing) -> bool:
    return (a.height, a.width, a.channels, a.interpolation) == (b.height, b.width, b.channels, b.interpolation)


def _with_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    return (pixels * _per_channel(_LUMA)).sum(dim=1, keepdim=True)


def _normalised(pixels: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    return (pixels - _per_channel(spec.mean)) / _per_channel(spec.std)


def _per_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)
