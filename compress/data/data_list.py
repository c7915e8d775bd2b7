"""Lists the pictures of a dataset, to tell whether it still is the one that a run began with."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtime import ArtifactError, Document

from .dataset import ArrayImages, Dataset, FileImages, ImageStore
from .unlabelled import JoinedImages

_SHOWN = 3


@dataclass(frozen=True)
class DataList:
    """The pictures and splits of a dataset.

    Attributes:
        data: name of the dataset, as given to ``--data``.
        class_names: class names in the order of the labels.
        names: names of the picture files, relative to the dataset's folder; empty for pictures in memory.
        sizes: sizes of these files, bytes.
        labels: labels of these files, as indices into ``class_names``; -1 for pictures without a label.
        content_sha256: SHA-256 of all pictures in memory and their labels; null for files.
        train: number of training images.
        held_out: number of held-out images.
        test: number of test images.
        splits_sha256: SHA-256 of the indices of the three splits.
        sha256: SHA-256 of the names, sizes and classes of files, or of the content of pictures in memory.

    Raises:
        ArtifactError: the numbers of names, sizes and labels differ.
    """

    data: str
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]
    content_sha256: str | None
    train: int
    held_out: int
    test: int
    splits_sha256: str
    sha256: str

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.sizes) == len(self.labels):
            raise ArtifactError("The list of a dataset needs as many names as sizes and labels")


DATA_DOCUMENT = Document("pocketvit.data", 1, DataList)


def list_data(data: Dataset) -> DataList:
    """Returns the list of a dataset. Files are identified by name, size and class; their content is not read."""
    classes = [*data.class_names, ""]
    if isinstance(data.images, FileImages) and data.images.names:
        names, sizes = tuple(_shown(name) for name in data.images.names), data.images.sizes
        labels: tuple[int, ...] = tuple(map(int, data.labels))
        content = None
        lines = (f"{name}\t{size}\t{classes[label]}\n" for name, size, label in zip(names, sizes, labels, strict=True))
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    else:
        names, sizes, labels = (), (), ()
        content = digest = _content(data.images, [classes[label] for label in data.labels])
    splits = hashlib.sha256()
    for indices in (data.train, data.held_out, data.test):
        splits.update(f"{len(indices)} ".encode() + indices.astype("<i8").tobytes())
    return DataList(
        data=data.name,
        class_names=data.class_names,
        names=names,
        sizes=sizes,
        labels=labels,
        content_sha256=content,
        train=len(data.train),
        held_out=len(data.held_out),
        test=len(data.test),
        splits_sha256=splits.hexdigest(),
        sha256=digest,
    )


def data_digest(data: Dataset) -> str:
    """Returns a digest of the pictures, labels and order of classes, which does not depend on the folder."""
    text = f"{list_data(data).sha256} {'/'.join(data.class_names)}"
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: DataList, now: DataList) -> tuple[str, ...]:
    """Returns the differences of two lists, a phrase each; empty where a run can be resumed with the other list."""
    changes = []
    if before.class_names != now.class_names:
        changes.append(_classes(before.class_names, now.class_names))
    if before.sha256 != now.sha256:
        changes += _files(before, now) or ["the pictures or their labels are others"]
    if not changes and before.splits_sha256 != now.splits_sha256:
        changes.append(
            f"the same pictures are split otherwise: {_splits(before)} before, {_splits(now)} now, or others in each"
        )
    return tuple(changes)


def _classes(before: Sequence[str], now: Sequence[str]) -> str:
    if sorted(before) == sorted(now):
        return f"the classes were in the order {_few(before)} and are now in the order {_few(now)}"
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    parts = [f"the classes {_few(gone)} are gone"] if gone else []
    return "; ".join([*parts, f"the classes {_few(new)} are new"] if new else parts)


def _files(before: DataList, now: DataList) -> list[str]:
    """Returns phrases for files that were added, removed or renamed, or have another size or class."""
    old, new = _by_name(before), _by_name(now)
    gone, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    renamed = _renamed({name: old[name] for name in gone}, {name: new[name] for name in added})
    gone = [name for name in gone if name not in renamed]
    targets = set(renamed.values())
    added = [name for name in added if name not in targets]
    both = sorted(old.keys() & new.keys())
    resized = [name for name in both if old[name][0] != new[name][0]]
    relabelled = [name for name in both if old[name][1] != new[name][1]]
    kinds = [
        (added, "was added", "were added"),
        (gone, "is gone", "are gone"),
        ([f"{name} to {renamed[name]}" for name in sorted(renamed)], "was renamed", "were renamed"),
        (resized, "has another size", "have another size"),
        (relabelled, "has another class", "have another class"),
    ]
    return [
        f"1 file {one} ({names[0]})" if len(names) == 1 else f"{len(names):,} files {several} ({_few(names)})"
        for names, one, several in kinds
        if names
    ]


def _by_name(own: DataList) -> dict[str, tuple[int, str]]:
    classes = [*own.class_names, ""]
    return {name: (size, classes[label]) for name, size, label in zip(own.names, own.sizes, own.labels, strict=True)}


def _renamed(gone: Mapping[str, tuple[int, str]], added: Mapping[str, tuple[int, str]]) -> dict[str, str]:
    """Returns the new names of renamed files by their old names; a file is matched by a unique size and class."""
    counts, others = Counter(gone.values()), Counter(added.values())
    names = {own: name for name, own in added.items()}
    return {name: names[own] for name, own in gone.items() if counts[own] == others[own] == 1}


def _splits(own: DataList) -> str:
    return f"{own.train:,} to train on, {own.held_out:,} held out, {own.test:,} to test on"


def _content(images: ImageStore, labels: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(labels).encode())
    _add_content(digest, images)
    return digest.hexdigest()


def _add_content(digest: hashlib._Hash, images: ImageStore) -> None:
    if isinstance(images, ArrayImages):
        digest.update(f"{images.pixels.dtype} {images.pixels.shape} ".encode())
        digest.update(np.ascontiguousarray(images.pixels).data)
    elif isinstance(images, JoinedImages):
        _add_content(digest, images.first)
        _add_content(digest, images.second)
    elif isinstance(images, FileImages):
        named = zip(images.names or map(str, images.paths), images.sizes or [0] * len(images.paths), strict=True)
        digest.update("".join(f"{_shown(name)}\t{size}\n" for name, size in named).encode())
    else:
        digest.update(str(len(images)).encode())


def _shown(name: str) -> str:
    """Returns a file's name in valid UTF-8, with other bytes escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
