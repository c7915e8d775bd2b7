"""Finds duplicate picture files: in training and test data, or under two labels."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from runtime import Progress, silent

from .dataset import Dataset, FileImages

_PEEK = 4096


def copy_warnings(data: Dataset, progress: Progress = silent) -> tuple[str, ...]:
    """Returns warnings about files with equal bytes: leaks between splits, and two labels for one picture.

    Only files of equal sizes are opened, and a whole file is read only where its end equals that of another.

    Args:
        data: the dataset with its splits; pictures in memory are not compared.
        progress: called for every file that is opened.
    """
    if not isinstance(data.images, FileImages) or not data.images.sizes:
        return ()
    groups = _groups(data.images.paths, data.images.sizes, progress)
    if not groups:
        return ()
    names, labels = data.images.names, data.labels
    split = np.full(len(labels), -1, np.int64)
    for number, indices in enumerate((data.train, data.held_out, data.test)):
        split[indices] = number
    notes = []
    leaks = [group for group in groups if 2 in split[group] and {0, 1} & set(split[group])]
    if leaks:
        count = sum(int((split[group] == 2).sum()) for group in leaks)
        test = next(index for index in leaks[0] if split[index] == 2)
        other = next(index for index in leaks[0] if split[index] in (0, 1))
        figure = "top-1" if data.labelled else "agreement"
        notes.append(
            f"{count:,} of {len(data.test):,} test images are also among the training images, byte for byte "
            f"(such as {names[test]} and {names[other]}): the {figure} is better than it would be on new images."
        )
    torn = [group for group in groups if len(set(labels[group])) > 1]
    if torn:
        one = torn[0][0]
        other = next(index for index in torn[0] if labels[index] != labels[one])
        notes.append(
            f"{len(torn):,} images are in more than one class, byte for byte "
            f"(such as {names[one]} and {names[other]}): one of the labels is wrong."
        )
    return tuple(notes)


def _groups(paths: Sequence[Path], sizes: Sequence[int], progress: Progress) -> list[list[int]]:
    """Returns groups of two or more indices of files with equal bytes."""
    candidates = _alike(range(len(paths)), [str(size) for size in sizes])
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for read in (_end_of, _digest_of):
            several = [index for group in candidates for index in group]
            keys = {}
            for index, key in zip(several, pool.map(read, [paths[index] for index in several]), strict=True):
                keys[index] = key
                progress("look for copies", len(keys), len(several))
            candidates = [part for group in candidates for part in _alike(group, [keys[index] for index in group])]
    return candidates


def _alike(indices: Sequence[int], keys: Sequence[str]) -> list[list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for index, key in zip(indices, keys, strict=True):
        found[key].append(index)
    return [group for group in found.values() if len(group) > 1]


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _PEEK))
        return hashlib.sha256(file.read()).hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
