"""Labelled pictures, and which of them are for what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import open_image

UNLABELLED = -1
"""Label of a picture whose class is not known."""


class ImageStore(Protocol):
    """A store of pictures, decoded when asked for."""

    def __len__(self) -> int:
        """Returns how many there are."""

    def __getitem__(self, index: int) -> Image.Image:
        """Returns one."""


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures and their three splits.

    Attributes:
        name: as given to ``--data``.
        class_names: in the order of the labels.
        channels: 1 (grayscale) or 3 (RGB) as the pictures come.
        size: typical height and width in pixels, or None where they differ.
        mirror: whether a mirrored picture still belongs to its class (no for digits).
        images: all pictures.
        labels: ``(N,)`` int64.
        train: indices to train on.
        held_out: indices to monitor training with and to calibrate on.
        test: indices the reported accuracy is taken on, and nothing else.
        notes: what was found, one sentence each.
        warnings: what may be wrong with it, one sentence each.
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
    def from_files(self) -> bool:
        """Whether pictures are decoded from files, which is worth worker processes."""
        return isinstance(self.images, FileImages)


@dataclass(frozen=True)
class ArrayImages:
    """Pictures in memory: uint8 ``(N, H, W)`` or ``(N, H, W, 3)``."""

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        """Returns one."""
        return Image.fromarray(self.pixels[index])


@dataclass(frozen=True)
class FileImages:
    """Pictures in files.

    Attributes:
        paths: paths of the files.
        names: their paths from the dataset's folder, with slashes: the same wherever that folder lies.
        sizes: sizes of the files, bytes.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        """Decodes one.

        Raises:
            DataError: it cannot be decoded.
        """
        return open_image(self.paths[index])
