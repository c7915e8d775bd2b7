"""The pictures that a model is cut and judged on: a labelled dataset, and photographs without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from compress.data.batches import plain_batches
from compress.data.data_list import data_digest
from compress.data.dataset import UNLABELLED, Dataset, FileImages
from runtime import DataError, Preprocessing, list_pictures

SetName = Literal["data", "photos"]

_HELD_OUT = 0.1
_TEST_SEED = 0xC7


@dataclass(frozen=True)
class Pictures:
    """One set of pictures.

    Attributes:
        name: ``data`` for the labelled dataset, ``photos`` for the photographs.
        data: the pictures and their splits; the training split is what models are calibrated on.
        spec: how a picture enters the model.
        labelled: whether the labels of the pictures are known.
        test_images: test images that a model is judged on, at most.
    """

    name: SetName
    data: Dataset
    spec: Preprocessing
    labelled: bool
    test_images: int

    def digest(self) -> str:
        """Returns a digest of pictures and labels, 16 hexadecimal digits."""
        return data_digest(self.data)[:16]

    def test(self) -> Stack:
        """Returns the test images, the same in every call."""
        return self._stack(_drawn(self.data.test, self.test_images, _TEST_SEED))

    def calibration(self, count: int, draw: int) -> Stack:
        """Returns ``count`` training images, other ones for every ``draw``.

        Raises:
            DataError: there are too few training images.
        """
        if count > len(self.data.train):
            raise DataError(
                f"There are too few pictures to calibrate on in {self.data.name}",
                expected=f"{count} or more",
                got=len(self.data.train),
                fix="Give fewer --calibration-images",
            )
        return self._stack(_drawn(self.data.train, count, 1 + draw))

    def _stack(self, indices: npt.NDArray[np.int64]) -> Stack:
        batches = list(plain_batches(self.data, indices, self.spec))
        labels = torch.cat([labels for _, labels in batches]) if self.labelled else None
        return Stack(torch.cat([images for images, _ in batches]), labels)


@dataclass(frozen=True)
class Stack:
    """Images that are ready for the model.

    Attributes:
        images: ``(N, C, H, W)`` float32, normalised.
        labels: ``(N,)`` int64; None where they are not known.
    """

    images: torch.Tensor
    labels: torch.Tensor | None

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)


def photographs(calibration: Path, test: Path, class_names: tuple[str, ...]) -> Dataset:
    """Reads two folders of photographs, at any depth, as a dataset without labels.

    Args:
        calibration: the folder of the training split, a tenth of which is held out.
        test: the folder of the test split.
        class_names: the model's classes, to none of which a photograph need belong.

    Raises:
        DataError: a folder does not exist or holds no pictures.
    """
    files = []
    for folder in (calibration, test):
        found = list_pictures(folder).files if folder.is_dir() else ()
        if not found:
            raise DataError(f"The folder {folder} holds no photographs", fix="Change --photos")
        files.append(sorted(found, key=lambda file: file.name))
    listed, first = [*files[0], *files[1]], len(files[0])
    order = np.random.default_rng(_TEST_SEED).permutation(first)
    held_out = max(1, round(_HELD_OUT * first))
    images = FileImages(
        tuple(file.path for file in listed),
        tuple(f"{'calibration' if i < first else 'test'}/{file.name}" for i, file in enumerate(listed)),
        tuple(file.size_bytes for file in listed),
    )
    return Dataset(
        name="photographs",
        class_names=class_names,
        channels=3,
        size=None,
        mirror=True,
        images=images,
        labels=np.full(len(listed), UNLABELLED, np.int64),
        train=np.sort(order[held_out:]),
        held_out=np.sort(order[:held_out]),
        test=np.arange(first, len(listed), dtype=np.int64),
    )


def _drawn(indices: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 0xCA11]).permutation(indices)[:count]
