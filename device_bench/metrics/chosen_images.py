"""Fewer of the labelled images, so that a slow device can answer them: as many of each class as can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime import DataError

from .accuracy import TestImages


def choose_images(images: TestImages, count: int, seed: int = 0) -> TestImages:
    """Returns ``count`` of ``images``, in their order.

    Every class gives as many as any other, drawn by lot; where ``count`` does not divide, lots say which classes give
    one more, and where a class has too few, the others make up for it.

    Args:
        images: labelled pictures.
        count: number of images, 1 to all.
        seed: seed of the random choice.

    Raises:
        DataError: there are not so many, or ``count`` is below 1.
    """
    there = len(images.labels)
    if not 1 <= count <= there:
        raise DataError(
            f"{count} labelled images cannot be chosen", expected=f"1 to {there}, which is how many there are"
        )
    rng = np.random.default_rng(seed)
    # each class in an order of its own; then all firsts, all seconds and so on, with the classes drawn anew each time
    turns = np.empty(there, np.int64)
    for label in np.unique(images.labels):
        own = np.flatnonzero(images.labels == label)
        turns[rng.permutation(own)] = np.arange(len(own))
    chosen = np.sort(np.lexsort((rng.random(there), turns))[:count])
    return replace(images, pictures=images.pictures[chosen], labels=images.labels[chosen])
