"""Pictures, their labels and their splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import open_image

UNLABELLED = -1
"""Label of a picture whose class is not known."""


class ImageStore(Protocol):
    """Pictures that are decoded when they are read."""

    def __len__(self) -> int:
        """Returns the number of pictures."""

    def __getitem__(self, index: int) -> Image.Image:
        """Returns a picture."""


@dataclass(frozen=True)
class Dataset:
    """Pictures, their labels if they are known, and their three splits.

    Attributes:
        name: name of the dataset, as given to ``--data``.
        class_names: class names in the order of the labels; without labels, those of the model's outputs, or none.
        channels: 1 (grayscale) or 3 (RGB), as in the files.
        size: height and width of all pictures in pixels; None where they differ.
        mirror: whether a mirrored picture still belongs to its class, which digits do not.
        images: all pictures.
        labels: ``(N,)`` int64; ``UNLABELLED`` for pictures without a label.
        train: indices of the training images.
        held_out: indices of the images that monitor training and calibrate.
        test: indices of the images for the reported accuracy, which are used for nothing else.
        notes: facts about the data, a sentence each.
        warnings: possible faults of the data, a sentence each.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None
    mirror: bool
    images: ImageStore
    labels: npt.NDArray[np.int64]
    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def labelled(self) -> bool:
        """Whether any picture has a label."""
        return bool((self.labels != UNLABELLED).any())

    @property
    def without_labels(self) -> Dataset:
        """The same pictures and splits without any label or class name."""
        return replace(self, class_names=(), labels=np.full(len(self.images), UNLABELLED, np.int64))

    @property
    def from_files(self) -> bool:
        """Whether pictures are decoded from files, which is worth threads."""
        return isinstance(self.images, FileImages)


@dataclass(frozen=True)
class ArrayImages:
    """Pictures in memory: uint8 ``(N, H, W)`` or ``(N, H, W, 3)``."""

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        """Returns a picture."""
        return Image.fromarray(self.pixels[index])


@dataclass(frozen=True)
class FileImages:
    """Pictures in files.

    Attributes:
        paths: paths of the files.
        names: paths relative to the dataset's folder, with slashes.
        sizes: sizes of the files, bytes.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        """Decodes a picture.

        Raises:
            DataError: the picture cannot be decoded.
        """
        return open_image(self.paths[index])
