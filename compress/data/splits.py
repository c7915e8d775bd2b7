"""Splits a dataset by seed, and draws images: at random, or so that every class has its share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from runtime import DataError

from .dataset import Dataset

HELD_OUT = 0.1
"""Share of the training images that are held out to monitor training and to calibrate."""

TEST = 0.2
"""Share of all images that becomes the test split of a dataset without one."""


UNLABELLED_CLASSES = 20
"""Number of classes that a set of images without labels is as large as."""

_LEAST = 10
"""Fewest pictures of a dataset without labels that is split."""


def random_set(data: Dataset, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns ``count`` random training indices, shuffled, whatever their labels; all of them if there are fewer."""
    generator = np.random.default_rng([seed, 0x5EA6C4])
    return generator.permutation(data.train)[:count]


def search_set(data: Dataset, per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns up to ``per_class`` random training indices of every class, shuffled.

    Of data without labels it returns as many random ones as of ``UNLABELLED_CLASSES`` classes.
    """
    if not data.labelled:
        return random_set(data, per_class * UNLABELLED_CLASSES, seed)
    generator = np.random.default_rng([seed, 0x5EA6C4])
    labels = data.labels[data.train]
    chosen = [generator.permutation(data.train[labels == c])[:per_class] for c in range(data.num_classes)]
    return generator.permutation(np.concatenate(chosen))


def split(raw: Dataset, seed: int, train_limit: int | None) -> Dataset:
    """Adds missing splits to a dataset: test (20 %) and held-out (10 % of the rest), the same share of every class.

    The splits of data without labels are random.

    Args:
        raw: the dataset; its training split holds all pictures that are not split yet.
        seed: seed of the splits.
        train_limit: use only this many training images, the same share of every class; None uses all.

    Raises:
        DataError: there are too few classes or images, or the limit leaves a class empty.
    """
    if raw.labelled:
        _check_classes(raw)
    elif len(raw.train) < _LEAST:
        raise DataError(
            f"The dataset '{raw.name}' is too small to split",
            expected=f"{_LEAST} pictures or more to train on",
            got=len(raw.train),
            fix=" ".join(("Found:", *raw.notes)) if raw.notes else None,
        )
    train, test, held_out = raw.train, raw.test, raw.held_out
    if not len(test):
        train, test = _divide(raw.labels, train, TEST, np.random.default_rng([seed, 1]))
    if not len(held_out):
        train, held_out = _divide(raw.labels, train, HELD_OUT, np.random.default_rng([seed, 2]))
    if train_limit is not None:
        least = max(raw.num_classes, 1)
        if train_limit < least:
            raise DataError("--train-limit leaves a class empty", expected=f"{least} or more", got=train_limit)
        if train_limit < len(train):
            train = stratified(raw.labels, train, train_limit, np.random.default_rng([seed, 3]))
    return replace(raw, train=np.sort(train), held_out=np.sort(held_out), test=np.sort(test))


def _check_classes(raw: Dataset) -> None:
    """Refuses labelled data with fewer than two classes, or fewer than 3 training images of one."""
    counts = np.bincount(raw.labels[raw.train], minlength=raw.num_classes)
    fewest = int(counts.min())
    if raw.num_classes < 2 or fewest < 3:
        small = raw.class_names[int(counts.argmin())]
        raise DataError(
            f"The dataset '{raw.name}' is too small to split",
            expected="two classes or more, with at least 3 training images each",
            got=f"{raw.num_classes} classes; '{small}' has {fewest}",
            fix=" ".join(("Found:", *raw.notes)) if raw.notes else None,
        )


def _divide(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], share: float, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns (rest, part), where part is a random ``share`` of every class, at least one image of each."""
    part = []
    for c in np.unique(labels[indices]):
        own = generator.permutation(indices[labels[indices] == c])
        part.append(own[: max(1, round(share * len(own)))])
    chosen = np.concatenate(part)
    return np.setdiff1d(indices, chosen), chosen


def stratified(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns ``count`` random ``indices`` with nearly the same share of every class, at least one of each.

    Where there are more classes than ``count``, some have one image and the others none. Pictures without labels count
    as one class, so that the choice among them is random.

    Args:
        labels: labels of all pictures, ``(N,)``.
        indices: indices to choose from, in any order.
        count: number of indices, at least 1; all are returned where there are fewer.
        generator: source of all randomness.
    """
    if count >= len(indices):
        return indices
    classes, sizes = np.unique(labels[indices], return_counts=True)
    if count < len(classes):
        classes = np.sort(generator.permutation(classes)[:count])
        taken = np.ones(count, np.int64)
    else:
        taken = _allotted(sizes, count)
    return np.concatenate(
        [generator.permutation(indices[labels[indices] == c])[:n] for c, n in zip(classes, taken, strict=True)]
    )


def _allotted(sizes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Returns the number of images of each class, at least one; ``count`` is at least the number of classes."""
    wanted = sizes * (count / sizes.sum())
    taken: npt.NDArray[np.int64] = np.maximum(1, wanted.astype(np.int64))
    while taken.sum() != count:
        if taken.sum() < count:
            taken[np.argmax(np.where(taken < sizes, wanted - taken, -np.inf))] += 1
        else:
            taken[np.argmax(np.where(taken > 1, taken - wanted, -np.inf))] -= 1
    return taken
