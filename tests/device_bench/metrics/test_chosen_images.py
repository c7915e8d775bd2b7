from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_bench.metrics.accuracy import TestImages
from device_bench.metrics.chosen_images import choose_images
from runtime import DataError


def labelled(labels: list[int]) -> TestImages:
    """Returns images whose first pixel is their number."""
    pictures = np.zeros((len(labels), 2, 2, 1), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(len(labels))
    names = tuple(f"class {label}" for label in range(max(labels) + 1))
    return TestImages(pictures, np.array(labels, np.int64), "made up", "test", names)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.data())
def test_as_many_of_each_class_as_can_be(labels: list[int], data: st.DataObject) -> None:
    count, seed = data.draw(st.integers(1, len(labels))), data.draw(st.integers(0, 1000))
    found = choose_images(labelled(labels), count, seed)
    assert len(found.labels) == count
    had, got = np.bincount(labels, minlength=6), np.bincount(found.labels, minlength=6)
    assert (got <= had).all()
    # only a class that has given all it has may give fewer than another, but for the odd one
    assert all(got[own] == had[own] or got[own] >= got.max() - 1 for own in range(6))


def test_pictures_keep_their_labels_their_order_and_their_names() -> None:
    images = labelled([0, 1, 2] * 20)
    found = choose_images(images, 12)
    numbers = found.pictures[:, 0, 0, 0]
    assert (np.diff(numbers.astype(int)) > 0).all()
    assert (images.labels[numbers] == found.labels).all()
    assert (found.class_names, found.data, found.split) == (images.class_names, "made up", "test")


def test_one_seed_gives_one_choice() -> None:
    images = labelled([0, 1] * 50)
    first, again, other = (choose_images(images, 10, seed).pictures for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("count", [0, -1, 4])
def test_more_than_there_are_or_none_is_refused(count: int) -> None:
    with pytest.raises(DataError, match="1 to 3"):
        choose_images(labelled([0, 1, 1]), count)
