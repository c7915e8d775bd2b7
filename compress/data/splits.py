"""Splits of a dataset by seed, and draws in which every class has its share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from runtime import DataError

from .dataset import Dataset

HELD_OUT = 0.1
"""Share of the training images held out to monitor training and to calibrate; never trained on."""

TEST = 0.2
"""Share of all images that becomes the test split where a dataset does not come with one."""


def search_set(data: Dataset, per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns up to ``per_class`` random training indices of every class, shuffled.

    Ref: docs, "Search Set": fresh images of the training split for every iteration of the search.
    """
    generator = np.random.default_rng([seed, 0x5EA6C4])
    labels = data.labels[data.train]
    chosen = [generator.permutation(data.train[labels == c])[:per_class] for c in range(data.num_classes)]
    return generator.permutation(np.concatenate(chosen))


def split(raw: Dataset, seed: int, train_limit: int | None) -> Dataset:
    """Splits off the parts that a dataset comes without: test (20 %) and held-out (10 % of the rest), of every class.

    Args:
        raw: all pictures; what is not split yet is in its training split.
        seed: seed of the splits.
        train_limit: use only this many training images, the same share of every class; None uses all.

    Raises:
        DataError: there are too few classes or images, or the limit leaves a class empty.
    """
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
            train = stratified(raw.labels, train, train_limit, np.random.default_rng([seed, 3]))
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


def stratified(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns ``count`` of ``indices`` at random: as near as can be the same share of every class, at least one.

    Of more classes than ``count`` some give one and the others none.

    Args:
        labels: labels of all pictures, ``(N,)``.
        indices: which to choose from, in any order.
        count: how many, 1 or more; all of them are returned where there are not as many.
        generator: generator of the lots.
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
    """Returns how many each class gives, at least one; ``count`` is the number of classes or more."""
    wanted = sizes * (count / sizes.sum())
    taken: npt.NDArray[np.int64] = np.maximum(1, wanted.astype(np.int64))
    while taken.sum() != count:
        if taken.sum() < count:
            taken[np.argmax(np.where(taken < sizes, wanted - taken, -np.inf))] += 1
        else:
            taken[np.argmax(np.where(taken > 1, taken - wanted, -np.inf))] -= 1
    return taken
