"""Batches of tensors from pictures: augmented for training, plain for evaluation, equal in every run."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from compress.distributed import ALONE, Ranks
from runtime import Preprocessing, normalise, preprocess

from .augment import Augmentation, augment
from .dataset import Dataset

Batch = tuple[torch.Tensor, torch.Tensor]
PictureInput = npt.NDArray[np.float32]

_AHEAD = 2


def plain_batches(
    data: Dataset, indices: npt.NDArray[np.int64], spec: Preprocessing, batch_size: int = 64
) -> Iterator[Batch]:
    """Yields images ``(B, C, H, W)`` float32 with labels ``(B,)`` in order, preprocessed as on the device."""

    def plain(index: int) -> PictureInput:
        return preprocess(data.images[index], spec)

    yield from _batches(data, indices, plain, batch_size, ALONE)


def training_batches(
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    skip: int = 0,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Yields the augmented batches of one epoch, shuffled by seed and epoch.

    In a training of several processes, each gets the pictures of its share ``(share, C, H, W)`` and the labels
    ``(B,)`` of the whole batch; order and augmentation do not depend on the number of processes. A rank with an empty
    share gets the batch's first picture, since some networks cannot run on an empty batch.

    Args:
        data: the dataset.
        indices: indices of the pictures.
        spec: the model's input.
        augmentation: random changes to the pictures.
        batch_size: pictures per batch; the last batch may be smaller.
        seed: seed of order and augmentation.
        epoch: epoch number from 0; every epoch has another order and augmentation.
        skip: leave out this many batches at the start, to resume an interrupted epoch.
        ranks: the processes that train together.
    """
    order = np.random.default_rng([seed, epoch]).permutation(indices)[skip * batch_size :]

    def changed(index: int) -> PictureInput:
        generator = np.random.default_rng([seed, epoch, index])
        return normalise(augment(data.images[index], spec, augmentation, generator), spec)

    yield from _batches(data, order, changed, batch_size, ranks)


def augmented_pixels(
    data: Dataset,
    indices: npt.NDArray[np.int64],
    spec: Preprocessing,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
) -> npt.NDArray[np.uint8]:
    """Returns augmented pictures ``(N, H, W, C)`` uint8 in the order of ``indices``, changed as in training."""
    pixels = np.empty((len(indices), spec.height, spec.width, spec.channels), np.uint8)
    for position, index in enumerate(indices):
        generator = np.random.default_rng([seed, epoch, int(index)])
        pixels[position] = augment(data.images[int(index)], spec, augmentation, generator)
    return pixels


def _batches(
    data: Dataset, indices: npt.NDArray[np.int64], get: Callable[[int], PictureInput], size: int, ranks: Ranks
) -> Iterator[Batch]:
    """Yields a rank's pictures and all labels of each batch in order; threads decode files two batches ahead.

    Threads are enough, since decoding releases Python's lock; processes forked while converters run threads may hang.
    """
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    shares = [_share(batch, ranks) for batch in batches]
    workers = _workers(data)
    if not workers:
        for batch, share in zip(batches, shares, strict=True):
            yield _stack(data, batch, [get(int(index)) for index in share])
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[list[Future[PictureInput]]] = deque()
        try:
            for position, batch in enumerate(batches):
                while len(waiting) <= _AHEAD and position + len(waiting) < len(shares):
                    waiting.append([pool.submit(get, int(index)) for index in shares[position + len(waiting)]])
                yield _stack(data, batch, [future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)


def _share(batch: npt.NDArray[np.int64], ranks: Ranks) -> npt.NDArray[np.int64]:
    own = batch[ranks.share(len(batch))]
    return own if len(own) else batch[:1]


def _stack(data: Dataset, indices: npt.NDArray[np.int64], pictures: list[PictureInput]) -> Batch:
    images = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
    return torch.from_numpy(images), torch.from_numpy(data.labels[indices])


def _workers(data: Dataset) -> int:
    """Returns the number of threads that decode pictures; 0 for pictures in memory."""
    return min(4, os.cpu_count() or 1) if data.from_files else 0
