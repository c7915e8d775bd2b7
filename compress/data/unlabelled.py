"""Pictures without labels, for training by distillation alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from runtime import IMAGE_SUFFIXES, DataError, PictureFile, Progress, excluded_in_words, list_pictures, message, silent

from .dataset import UNLABELLED, Dataset, FileImages, ImageStore
from .image_folder import check_images

UNLABELLED_PREFIX = "unlabelled:"
"""Prefix of the names of pictures without labels, so that they differ from those of labelled pictures."""


@dataclass(frozen=True)
class JoinedImages:
    """Two stores of pictures in one."""

    first: ImageStore
    second: ImageStore

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Image.Image:
        """Returns a picture."""
        own = len(self.first)
        return self.first[index] if index < own else self.second[index - own]


def with_unlabelled(data: Dataset, folder: Path, *, skip_bad: bool = False, progress: Progress = silent) -> Dataset:
    """Returns ``data`` with the pictures below a folder added to its training split, without labels.

    The held-out and the test split do not change.

    Args:
        data: the labelled pictures.
        folder: folder with pictures at any depth; names of folders have no meaning.
        skip_bad: leave out pictures that cannot be decoded.
        progress: called while pictures are checked.

    Raises:
        DataError: the folder does not exist, has no pictures, or has one that cannot be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"The folder of unlabelled images {folder} does not exist", fix="Change --unlabelled")
    tree = list_pictures(folder)
    if not tree.files:
        raise DataError(
            f"The folder {folder} holds no pictures",
            expected=", ".join(sorted(IMAGE_SUFFIXES)),
            got=excluded_in_words(tree.left_out) or None,
        )
    grays = check_images([file.path for file in tree.files], skip_bad, progress)
    kept = [file for file, gray in zip(tree.files, grays, strict=True) if gray is not None]
    if not kept:
        raise DataError(f"The folder {folder} holds no picture that can be decoded")
    left_out = f"; {excluded_in_words(tree.left_out)}" if tree.left_out else ""
    message(progress, "data", f"{len(kept):,} pictures without labels in {folder}{left_out}")
    added = FileImages(
        tuple(file.path for file in kept),
        tuple(f"{UNLABELLED_PREFIX}{file.name}" for file in kept),
        tuple(file.size_bytes for file in kept),
    )
    return _extended(data, _joined(data.images, added), len(kept), f"{folder} {_digest(kept)}")


def _joined(own: ImageStore, added: FileImages) -> ImageStore:
    if not isinstance(own, FileImages):
        return JoinedImages(own, added)
    # files in one store are still decoded by threads
    return FileImages((*own.paths, *added.paths), (*own.names, *added.names), (*own.sizes, *added.sizes))


def _extended(data: Dataset, images: ImageStore, count: int, name: str) -> Dataset:
    first = len(data.images)
    return replace(
        data,
        name=f"{data.name}+{name}",
        images=images,
        labels=np.concatenate([data.labels, np.full(count, UNLABELLED, np.int64)]),
        train=np.concatenate([data.train, np.arange(first, first + count, dtype=np.int64)]),
    )


def _digest(files: Sequence[PictureFile]) -> str:
    """Returns a digest of the names and sizes of pictures, 12 hexadecimal digits."""
    listed = "".join(f"{file.path} {file.size_bytes}\n" for file in files)
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:12]
