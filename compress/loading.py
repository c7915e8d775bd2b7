"""Pictures to batches of tensors: augmented for training, plain for evaluation, the same on every run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import InterpolationMode, v2

from runtime import Preprocessing, normalise, preprocess, to_channels

from .dataset import Dataset

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training picture; the defaults are the published ones.

    Attributes:
        crop_area: smallest and largest share of the picture's area that a random crop keeps.
        mirror: probability of a horizontal flip.
        jitter: largest relative change of brightness, contrast and saturation.
    """

    crop_area: tuple[float, float] = (0.8, 1.0)
    mirror: float = 0.5
    jitter: float = 0.3


def augmentation_for(data: Dataset) -> Augmentation:
    """Returns the published augmentation, without mirroring where it would change the class."""
    return Augmentation() if data.mirror else Augmentation(mirror=0.0)


class _Plain(TorchDataset[Batch]):
    """Pictures as the device will see them."""

    def __init__(self, data: Dataset, indices: npt.NDArray[np.int64], spec: Preprocessing) -> None:
        self.data, self.indices, self.spec = data, indices, spec

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        index = int(self.indices[position])
        array = preprocess(self.data.images[index], self.spec)
        return torch.from_numpy(array.transpose(2, 0, 1).copy()), torch.tensor(int(self.data.labels[index]))


class _Augmented(TorchDataset[Batch]):
    """Randomly changed pictures; what is random depends on seed, epoch and picture alone."""

    def __init__(
        self, data: Dataset, order: npt.NDArray[np.int64], spec: Preprocessing, augmentation: Augmentation, seed: int
    ) -> None:
        self.data, self.order, self.spec, self.seed = data, order, spec, seed
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop(
                (spec.height, spec.width),
                scale=augmentation.crop_area,
                interpolation=InterpolationMode(spec.interpolation),
            )
        ]
        if augmentation.mirror > 0:
            steps.append(v2.RandomHorizontalFlip(augmentation.mirror))
        if augmentation.jitter > 0:
            j = augmentation.jitter
            steps.append(v2.ColorJitter(j, j, j if spec.channels == 3 else 0))
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Batch:
        index = int(self.order[position])
        image = to_channels(self.data.images[index], self.spec.channels)
        torch.manual_seed((self.seed * 1_000_003 + index) % 2**63)
        pixels = np.asarray(self.transform(image), dtype=np.uint8)
        array = normalise(pixels.reshape(self.spec.height, self.spec.width, self.spec.channels), self.spec)
        return torch.from_numpy(array.transpose(2, 0, 1).copy()), torch.tensor(int(self.data.labels[index]))


def plain_batches(
    data: Dataset, indices: npt.NDArray[np.int64], spec: Preprocessing, batch_size: int = 64
) -> Iterator[Batch]:
    """Yields (images ``(B, C, H, W)`` float32, labels ``(B,)``) in order, preprocessed as on the device."""
    yield from DataLoader(_Plain(data, indices, spec), batch_size, num_workers=_workers(data))


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
) -> Iterator[Batch]:
    """Yields augmented batches of one epoch, shuffled by seed and epoch.

    Args:
        data: the dataset.
        indices: which pictures.
        spec: the model's input.
        augmentation: what is random.
        batch_size: pictures per batch; the last may be smaller.
        seed: of order and augmentation.
        epoch: counted from 0; each has its own order and augmentation.
        skip: leave out this many batches at the start, to continue an interrupted epoch.
    """
    order = np.random.default_rng([seed, epoch]).permutation(indices)[skip * batch_size :]
    if not len(order):
        return
    dataset = _Augmented(data, order, spec, augmentation, seed * 7919 + epoch)
    yield from DataLoader(dataset, batch_size, num_workers=_workers(data))


def _workers(data: Dataset) -> int:
    return min(4, os.cpu_count() or 1) if data.from_files else 0
