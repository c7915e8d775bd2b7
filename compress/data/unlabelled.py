"""Pictures without labels, for a teacher to label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from runtime import IMAGE_SUFFIXES, DataError, PictureFile, Progress, in_words, list_pictures, message, silent

from .dataset import UNLABELLED, Dataset, FileImages, ImageStore
from .image_folder import check_images

UNLABELLED_PREFIX = "unlabelled:"
"""Begins the names of pictures without labels, which could else be those of labelled ones."""


@dataclass(frozen=True)
class JoinedImages:
    """Two stores of pictures as one."""

    first: ImageStore
    second: ImageStore

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Image.Image:
        """Returns one."""
        own = len(self.first)
        return self.first[index] if index < own else self.second[index - own]


def with_unlabelled(data: Dataset, folder: Path, *, skip_bad: bool = False, progress: Progress = silent) -> Dataset:
    """Returns ``data`` with the pictures below a folder added to its training split, without labels.

    Held-out and test split stay as they are.

    Args:
        data: the labelled pictures.
        folder: folder of pictures, at any depth; names of folders say nothing.
        skip_bad: leave out pictures that cannot be decoded.
        progress: called while they are checked.

    Raises:
        DataError: no folder, no pictures, or one that cannot be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"The folder of unlabelled images {folder} does not exist", fix="Change --unlabelled")
    tree = list_pictures(folder)
    if not tree.files:
        raise DataError(
            f"The folder {folder} holds no pictures",
            expected=", ".join(sorted(IMAGE_SUFFIXES)),
            got=in_words(tree.left_out) or None,
        )
    grays = check_images([file.path for file in tree.files], skip_bad, progress)
    kept = [file for file, gray in zip(tree.files, grays, strict=True) if gray is not None]
    if not kept:
        raise DataError(f"The folder {folder} holds no picture that can be decoded")
    left_out = f"; {in_words(tree.left_out)}" if tree.left_out else ""
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
    # a store of files alone keeps being decoded by threads
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
    """Returns what another set of pictures in the same folder would change: a digest of names and sizes."""
    listed = "".join(f"{file.path} {file.size_bytes}\n" for file in files)
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:12]
