"""The Search Set: augmented images of every class on which a search decides, drawn anew for every iteration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from runtime import Preprocessing, normalise

from .augment import Augmentation
from .batches import Batch, augmented_pixels
from .dataset import Dataset
from .splits import search_set


@dataclass(frozen=True)
class SearchImages:
    """A Search Set, kept as bytes: 2,500 images of 224 pixels take 376 MB.

    Attributes:
        pixels: ``(N, H, W, C)`` uint8, augmented.
        labels: ``(N,)`` int64.
        spec: the model's input.
        index: for models that answer with vectors, those of the whole model, of length 1, ``(N, D)`` float32. The
            label of an image is then its number, and a model is right if its vector is nearest to that of the image.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    spec: Preprocessing
    index: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    def at(self, positions: npt.NDArray[np.int64]) -> Batch:
        """Returns images ``(B, C, H, W)`` float32 and labels ``(B,)`` at ``positions``."""
        array = normalise(self.pixels[positions], self.spec).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(array)), torch.from_numpy(self.labels[positions])

    def spread(self, most: int) -> SearchImages:
        """Returns at most ``most`` of the images, with the same share of every class."""
        if most >= len(self):
            return self
        ranks = np.zeros(len(self), np.int64)  # of each image within its class
        for label in np.unique(self.labels):
            own = np.flatnonzero(self.labels == label)
            ranks[own] = np.arange(len(own))
        chosen = np.sort(np.lexsort((self.labels, ranks))[:most])
        return SearchImages(self.pixels[chosen], self.labels[chosen], self.spec)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yields all images in order, in batches of ``size``."""
        for start in range(0, len(self), size):
            yield self.at(np.arange(start, min(start + size, len(self))))


def draw_search_images(
    data: Dataset, spec: Preprocessing, augmentation: Augmentation, *, per_class: int, seed: int, iteration: int
) -> SearchImages:
    """Draws up to ``per_class`` training images of every class, with the training augmentation.

    Args:
        data: the dataset.
        spec: the model's input.
        augmentation: random changes to the pictures.
        per_class: images of each class.
        seed: seed of the run.
        iteration: iteration number from 0; every iteration draws other images.
    """
    indices = search_set(data, per_class, seed + 7919 * iteration)
    pixels = augmented_pixels(data, indices, spec, augmentation, seed=seed, epoch=1_000_000 + iteration)
    return SearchImages(pixels, data.labels[indices], spec)
