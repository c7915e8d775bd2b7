"""A part of a split in which every class has its share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def stratified(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns ``count`` of ``indices`` at random: as near as can be the same share of every class, at least one.

    Of more classes than ``count`` some give one and the others none.

    Args:
        labels: of all pictures, ``(N,)``.
        indices: which to choose from, in any order.
        count: how many, 1 or more; all of them are returned where there are not as many.
        generator: of the lots.
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
