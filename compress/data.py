"""Datasets by name, each split once and for all by seed into train, held-out and test."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime import DataError, Progress, silent

from .dataset import Dataset
from .image_folder import image_folder
from .sources import cifar, digits, fashion_mnist

HELD_OUT = 0.1
"""Share of the training images held out to monitor training and to calibrate; never trained on."""

TEST = 0.2
"""Share of all images that becomes the test split where a dataset does not come with one."""


def load_data(
    name: str,
    *,
    seed: int = 0,
    train_limit: int | None = None,
    skip_bad: bool = False,
    progress: Progress = silent,
) -> Dataset:
    """Loads a dataset and splits it.

    Args:
        name: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, each but the first optionally with
            ``:FOLDER`` where it lies, or ``imagefolder:PATH`` (``train/`` and ``val/``, or one folder that is
            split by seed; a folder of pictures per class).
        seed: of the splits.
        train_limit: use only this many training images, the same share of every class.
        skip_bad: leave out pictures of a folder that cannot be decoded, instead of stopping.
        progress: told while a folder's pictures are checked.

    Raises:
        DataError: unknown name, data that is not there, an unreadable picture, too few images or classes.
    """
    kind, _, where = name.partition(":")
    if kind not in _LOADERS:
        near = difflib.get_close_matches(kind, _LOADERS, n=1)
        raise DataError(
            f"No dataset is called '{name}'",
            expected=", ".join([*list(_LOADERS)[:-1], "imagefolder:PATH"]),
            fix=f"Did you mean {near[0]}" if near else "A folder of your own is --data imagefolder:PATH",
        )
    if kind == "digits" and where:
        raise DataError("The dataset 'digits' is built in and takes no folder", got=name)
    raw = _LOADERS[kind](Path(where).expanduser() if where else None, skip_bad, progress)
    return _split(replace(raw, name=name), seed, train_limit)


def search_set(data: Dataset, per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns up to ``per_class`` random training indices of every class, shuffled.

    Ref: docs, "Search Set": fresh images of the training split for every iteration of the search.
    """
    generator = np.random.default_rng([seed, 0x5EA6C4])
    labels = data.labels[data.train]
    chosen = [generator.permutation(data.train[labels == c])[:per_class] for c in range(data.num_classes)]
    return generator.permutation(np.concatenate(chosen))


def _split(raw: Dataset, seed: int, train_limit: int | None) -> Dataset:
    """Splits off what a dataset does not come split: test (20 %) and held-out (10 % of the rest), per class."""
    counts = np.bincount(raw.labels[raw.train], minlength=raw.num_classes)
    fewest = int(counts.min())
    if raw.num_classes < 2 or fewest < 3:
        small = raw.class_names[int(counts.argmin())]
        raise DataError(
            f"The dataset '{raw.name}' is too small to split",
            expected="two classes or more, with at least 3 training images each",
            got=f"{raw.num_classes} classes; '{small}' has {fewest}",
        )
    train, test, held_out = raw.train, raw.test, raw.held_out
    if not len(test):
        train, test = _divide(raw.labels, train, TEST, np.random.default_rng([seed, 1]))
    if not len(held_out):
        train, held_out = _divide(raw.labels, train, HELD_OUT, np.random.default_rng([seed, 2]))
    if train_limit is not None:
        if train_limit < raw.num_classes:
            raise DataError(
                "--train-limit leaves a class empty", expected=f"{raw.num_classes} or more", got=train_limit
            )
        if train_limit < len(train):
            train = _draw(raw.labels, train, train_limit, np.random.default_rng([seed, 3]))
    return replace(raw, train=np.sort(train), held_out=np.sort(held_out), test=np.sort(test))


def _divide(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], share: float, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns (rest, part): ``share`` of every class, at least one image of each, chosen at random."""
    part = []
    for c in np.unique(labels[indices]):
        own = generator.permutation(indices[labels[indices] == c])
        part.append(own[: max(1, round(share * len(own)))])
    chosen = np.concatenate(part)
    return np.setdiff1d(indices, chosen), chosen


def _draw(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns ``count`` of ``indices`` at random: as near as can be the same share of every class, at least one."""
    classes, sizes = np.unique(labels[indices], return_counts=True)
    wanted = sizes * (count / len(indices))
    taken = np.maximum(1, wanted.astype(np.int64))
    while taken.sum() != count:
        if taken.sum() < count:
            taken[np.argmax(np.where(taken < sizes, wanted - taken, -np.inf))] += 1
        else:
            taken[np.argmax(np.where(taken > 1, taken - wanted, -np.inf))] -= 1
    return np.concatenate(
        [generator.permutation(indices[labels[indices] == c])[:n] for c, n in zip(classes, taken, strict=True)]
    )


_LOADERS: dict[str, Callable[[Path | None, bool, Progress], Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar("CIFAR10"),
    "cifar100": cifar("CIFAR100"),
    "imagefolder": image_folder,
}


def known_data() -> tuple[str, ...]:
    """Returns the names ``load_data`` takes."""
    return tuple(_LOADERS)
