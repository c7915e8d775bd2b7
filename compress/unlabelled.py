"""Pictures without labels, for a teacher to label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from runtime import DataError, Progress, silent

from .dataset import Dataset, FileImages, Images
from .distill import UNLABELLED
from .image_folder import IMAGE_SUFFIXES, check_images


@dataclass(frozen=True)
class JoinedImages:
    """Two stores of pictures as one."""

    first: Images
    second: Images

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
        folder: of pictures, at any depth; names of folders say nothing.
        skip_bad: leave out pictures that cannot be decoded.
        progress: told while they are checked.

    Raises:
        DataError: no folder, no pictures, or one that cannot be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"The folder of unlabelled images {folder} does not exist", fix="Change --unlabelled")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"The folder {folder} holds no pictures", expected=", ".join(sorted(IMAGE_SUFFIXES)))
    good = check_images(paths, skip_bad, progress)
    kept = tuple(path for path, ok in zip(paths, good, strict=True) if ok)
    if not kept:
        raise DataError(f"The folder {folder} holds no picture that can be decoded")
    # a store of files alone keeps being decoded by threads
    added = FileImages((*data.images.paths, *kept)) if isinstance(data.images, FileImages) else None
    joined = added or JoinedImages(data.images, FileImages(kept))
    return _extended(data, joined, len(kept), f"{folder} {_digest(kept)}")


def _extended(data: Dataset, images: Images, count: int, name: str) -> Dataset:
    first = len(data.images)
    return replace(
        data,
        name=f"{data.name}+{name}",
        images=images,
        labels=np.concatenate([data.labels, np.full(count, UNLABELLED, np.int64)]),
        train=np.concatenate([data.train, np.arange(first, first + count, dtype=np.int64)]),
    )


def _digest(paths: Sequence[Path]) -> str:
    """Returns what another set of pictures in the same folder would change: a digest of names and sizes."""
    listed = "".join(f"{path} {path.stat().st_size}\n" for path in paths)
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:12]
