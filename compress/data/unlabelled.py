"""Pictures in folders, read without any label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import IMAGE_SUFFIXES, DataError, PictureFile, Progress, excluded_in_words, list_pictures, message, silent

from .dataset import UNLABELLED, Dataset, FileImages, ImageStore
from .folder_layout import recognise
from .image_folder import check_images

UNLABELLED_PREFIX = "unlabelled:"
"""Prefix of the names of pictures without labels, so that they differ from those of labelled pictures."""


_MOVED = "Change --data; a run whose data moved goes on with its new place"


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
    found = _pictures_in(folder, skip_bad, progress, "Change --unlabelled")
    message(progress, "data", f"{len(found.files):,} pictures without labels in {folder}{found.left_out}")
    added = FileImages(
        tuple(file.path for file in found.files),
        tuple(f"{UNLABELLED_PREFIX}{file.name}" for file in found.files),
        tuple(file.size_bytes for file in found.files),
    )
    return _extended(data, _joined(data.images, added), len(found.files), f"{folder} {_digest(found.files)}")


def unlabelled_folder(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Reads the pictures below a folder as a dataset without labels, which is split by seed.

    Args:
        folder: folder with pictures at any depth; names of folders have no meaning.
        skip_bad: leave out pictures that cannot be decoded.
        progress: called while pictures are checked.

    Raises:
        DataError: the folder does not exist, has no pictures, or has one that cannot be decoded.
    """
    assert folder is not None
    found = _pictures_in(folder, skip_bad, progress, _MOVED)
    note = f"{len(found.files):,} pictures without labels ({found.colour}), split by seed{found.left_out}."
    return _dataset("unlabelled", found, {"train": np.arange(len(found.files), dtype=np.int64)}, note)


def image_folder_images(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Reads the pictures of an image folder without labels: folders name splits, and no class.

    Args:
        folder: path of the data, with a folder of pictures per class; see ``folder_layout``.
        skip_bad: leave out pictures that cannot be decoded.
        progress: called while pictures are checked.

    Raises:
        DataError: the folder does not exist, is ambiguous, has no pictures, or has one that cannot be decoded.
    """
    assert folder is not None
    found = _pictures_in(folder, skip_bad, progress, _MOVED)
    tree = list_pictures(folder)
    splits = recognise([file.parts for file in tree.files], tree.folders, str(folder)).splits
    places = [next((own.role for own in splits if own.folder in ("", file.parts[0])), None) for file in found.files]
    indices: dict[str, npt.NDArray[np.int64]] = {
        own.role: np.array([n for n, role in enumerate(places) if role == own.role], np.int64) for own in splits
    }
    empty = next((own.folder for own in splits if not len(indices[own.role])), None)
    if empty is not None:
        raise DataError(f"{folder / empty} holds no pictures", fix=f"Add some, or remove {empty}/")
    named = ", ".join(f"{own.folder}/" for own in splits if own.folder) or "split by seed"
    outside = f"; {places.count(None):,} outside the splits are left out" if None in places else ""
    note = f"{len(found.files):,} pictures ({found.colour}), read without labels; {named}{outside}{found.left_out}."
    return _dataset("imagefolder", found, indices, note)


@dataclass(frozen=True)
class _Found:
    """The pictures of a folder that can be decoded: their files, colour in words, and the files left out in words."""

    files: tuple[PictureFile, ...]
    grays: int
    left_out: str

    @property
    def colour(self) -> str:
        return "gray" if self.grays == len(self.files) else f"{self.grays:,} of them gray" if self.grays else "colour"


def _pictures_in(folder: Path, skip_bad: bool, progress: Progress, fix: str) -> _Found:
    """Returns the pictures below a folder, at any depth.

    Raises:
        DataError: the folder does not exist, has no pictures, or has one that cannot be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"The folder of unlabelled images {folder} does not exist", fix=fix)
    tree = list_pictures(folder)
    if not tree.files:
        raise DataError(
            f"The folder {folder} holds no pictures",
            expected=", ".join(sorted(IMAGE_SUFFIXES)),
            got=excluded_in_words(tree.left_out) or None,
        )
    grays = check_images([file.path for file in tree.files], skip_bad, progress)
    kept = tuple(file for file, gray in zip(tree.files, grays, strict=True) if gray is not None)
    if not kept:
        raise DataError(f"The folder {folder} holds no picture that can be decoded")
    left_out = f"; {excluded_in_words(tree.left_out)}" if tree.left_out else ""
    return _Found(kept, sum(gray is True for gray in grays), left_out)


def _dataset(name: str, found: _Found, indices: dict[str, npt.NDArray[np.int64]], note: str) -> Dataset:
    none = np.zeros(0, np.int64)
    return Dataset(
        name=name,
        class_names=(),
        channels=1 if found.grays == len(found.files) else 3,
        size=None,
        mirror=True,
        images=FileImages(
            tuple(file.path for file in found.files),
            tuple(file.name for file in found.files),
            tuple(file.size_bytes for file in found.files),
        ),
        labels=np.full(len(found.files), UNLABELLED, np.int64),
        train=indices["train"],
        held_out=indices.get("held_out", none),
        test=indices.get("test", none),
        notes=(note,),
    )


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
