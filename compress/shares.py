"""A rank's share of every training batch: only its own pictures are decoded, changed and normalised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import numpy.typing as npt
import torch

from runtime import Preprocessing, normalise

from .augment import Augmentation, augment
from .dataset import Dataset
from .distill_views import _normalised, _same_pixels, _with_channels, teacher_views
from .distributed import Ranks
from .loading import Batch, Picture, _batches, training_batches


@dataclass(frozen=True)
class Order:
    """Which batches of a training are meant.

    Attributes:
        batch_size: pictures of a whole batch.
        seed: of order and augmentation.
        epoch: counted from 0.
        skip: leave out this many batches at the start.
    """

    batch_size: int
    seed: int
    epoch: int
    skip: int = 0


def training_shares(
    data: Dataset, spec: Preprocessing, augmentation: Augmentation, order: Order, ranks: Ranks
) -> Iterator[Batch]:
    """Yields a rank's pictures ``(share, C, H, W)`` of each batch of an epoch, and the labels ``(B,)`` of all of it.

    Order and augmentation are those of a single process. A rank whose share is empty is given the batch's first
    picture, for there are networks that cannot do without any.

    Args:
        data: the dataset; its training split is taken.
        spec: the model's input.
        augmentation: what is random.
        order: which batches.
        ranks: who trains.
    """
    if ranks.size == 1:
        named = {"batch_size": order.batch_size, "seed": order.seed, "epoch": order.epoch, "skip": order.skip}
        yield from training_batches(data, data.train, spec, augmentation, **named)
        return
    whole = _whole_batches(data, order)
    own = (images for images, _ in _own_batches(data, spec, augmentation, order, ranks))
    for indices, images in zip(whole, own, strict=True):
        yield images, torch.from_numpy(data.labels[indices])


def view_shares(
    data: Dataset,
    student: Preprocessing,
    teacher: Preprocessing,
    augmentation: Augmentation,
    order: Order,
    ranks: Ranks,
) -> Iterator[torch.Tensor | None]:
    """Yields the teacher's view of the pictures that ``training_shares`` yields, as ``teacher_views`` does of all."""
    if ranks.size == 1:
        named = {"batch_size": order.batch_size, "seed": order.seed, "epoch": order.epoch, "skip": order.skip}
        yield from teacher_views(data, student, teacher, augmentation, **named)
        return
    if _same_pixels(student, teacher):
        yield from repeat(None)
        return
    channels = teacher.channels if data.channels == teacher.channels == 3 else student.channels
    plain = replace(teacher, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    for pixels, _ in _own_batches(data, plain, augmentation, order, ranks):
        yield _normalised(_with_channels(pixels, teacher.channels), teacher)


def _whole_batches(data: Dataset, order: Order) -> list[npt.NDArray[np.int64]]:
    shuffled = np.random.default_rng([order.seed, order.epoch]).permutation(data.train)
    starts = range(order.skip * order.batch_size, len(shuffled), order.batch_size)
    return [shuffled[start : start + order.batch_size] for start in starts]


def _own_batches(
    data: Dataset, spec: Preprocessing, augmentation: Augmentation, order: Order, ranks: Ranks
) -> Iterator[Batch]:
    def changed(index: int) -> Picture:
        generator = np.random.default_rng([order.seed, order.epoch, index])
        return normalise(augment(data.images[index], spec, augmentation, generator), spec)

    shares = [batch[ranks.share(len(batch))] for batch in _whole_batches(data, order)]
    filled = [own if len(own) else batch[:1] for own, batch in zip(shares, _whole_batches(data, order), strict=True)]
    if filled:
        # the last batch alone may be smaller, and then no share of it is larger than those before
        yield from _batches(data, np.concatenate(filled), changed, len(filled[0]))
