"""Pictures to batches of tensors: augmented for training, plain for evaluation, the same on every run."""

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
Picture = npt.NDArray[np.float32]

_AHEAD = 2


def plain_batches(
    data: Dataset, indices: npt.NDArray[np.int64], spec: Preprocessing, batch_size: int = 64
) -> Iterator[Batch]:
    """Yields (images ``(B, C, H, W)`` float32, labels ``(B,)``) in order, preprocessed as on the device."""

    def plain(index: int) -> Picture:
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
    """Yields augmented batches of one epoch, shuffled by seed and epoch.

    Of several processes each is given the pictures of its share ``(share, C, H, W)`` and the labels ``(B,)`` of the
    whole batch; order and augmentation are those of a single one. A rank whose share is empty is given the batch's
    first picture, for there are networks that cannot do without any.

    Args:
        data: the dataset.
        indices: which pictures.
        spec: the model's input.
        augmentation: random changes to the pictures.
        batch_size: pictures per batch; the last may be smaller.
        seed: seed of order and augmentation.
        epoch: counted from 0; each has its own order and augmentation.
        skip: leave out this many batches at the start, to continue an interrupted epoch.
        ranks: who trains.
    """
    order = np.random.default_rng([seed, epoch]).permutation(indices)[skip * batch_size :]

    def changed(index: int) -> Picture:
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
    """Returns augmented pictures ``(N, H, W, C)`` uint8, in the order of ``indices``; random as in training."""
    pixels = np.empty((len(indices), spec.height, spec.width, spec.channels), np.uint8)
    for position, index in enumerate(indices):
        generator = np.random.default_rng([seed, epoch, int(index)])
        pixels[position] = augment(data.images[int(index)], spec, augmentation, generator)
    return pixels


def _batches(
    data: Dataset, indices: npt.NDArray[np.int64], get: Callable[[int], Picture], size: int, ranks: Ranks
) -> Iterator[Batch]:
    """Yields in order a rank's pictures of each batch and all its labels; threads decode files two batches ahead.

    Threads and not processes: decoding leaves Python's lock, and a process forked beside the converters' threads
    may never wake.
    """
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    shares = [_share(batch, ranks) for batch in batches]
    workers = _workers(data)
    if not workers:
        for batch, share in zip(batches, shares, strict=True):
            yield _stack(data, batch, [get(int(index)) for index in share])
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[list[Future[Picture]]] = deque()
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


def _stack(data: Dataset, indices: npt.NDArray[np.int64], pictures: list[Picture]) -> Batch:
    images = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
    return torch.from_numpy(images), torch.from_numpy(data.labels[indices])


def _workers(data: Dataset) -> int:
    """Returns how many threads decode pictures; none where they are in memory."""
    return min(4, os.cpu_count() or 1) if data.from_files else 0
