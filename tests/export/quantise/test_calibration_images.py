"""A calibration set that cannot set ranges is refused, and a doubtful one is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from export.quantise.calibrate import check_calibration
from export.quantise.calibration_images import check_calibration_images
from runtime import DataError


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Pictures of a mean near 0 and a spread near 1, each with its own brightness."""
    random = np.random.default_rng(seed)
    return random.normal(random.normal(0, 0.3, (count, 1, 1, 1)), 1, (count, 8, 8, 3)).astype(np.float32)


OTHERS = pictures(200, seed=1)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (None, "at least 2"),
        (np.zeros((1, 4, 4, 1), np.float32), "at least 2"),
        (np.zeros((4, 4, 4, 1), np.float32), "constant"),
        (np.repeat(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), 3, axis=0), "all the same"),
    ],
)
def test_calibration_images_that_say_nothing_are_refused(images: np.ndarray | None, text: str) -> None:
    with pytest.raises(DataError, match=text):
        check_calibration(images)


def test_pictures_like_the_others_are_taken() -> None:
    for seed in range(20):
        assert check_calibration_images(pictures(32, seed + 2), OTHERS) == ()


def test_images_of_one_colour_each_are_refused() -> None:
    flat = np.broadcast_to(np.linspace(-1, 1, 32, dtype=np.float32)[:, None, None, None], (32, 8, 8, 3))
    check_calibration(flat)
    with pytest.raises(DataError, match="32 of 32 images of one colour"):
        check_calibration_images(flat, OTHERS)


def test_few_images_are_noticed() -> None:
    (warning,) = check_calibration_images(pictures(3, seed=3), OTHERS)
    assert "Only 3 images set the integer ranges" in warning


@pytest.mark.parametrize(
    ("scale", "offset", "said"),
    [
        (1 / 4.5, 2.0, None),  # ImageNet's normalisation left out
        (58.0, 114.0, None),  # pixels of 0 to 255
        (0.5, 0.0, "0.51 times the spread"),
        (1.0, 0.9, "standard deviations away"),
    ],
)
def test_another_normalisation_is_refused_or_noticed(scale: float, offset: float, said: str | None) -> None:
    wrong = pictures(32, seed=4) * np.float32(scale) + np.float32(offset)
    if said is None:
        with pytest.raises(DataError, match="other values than the images that the file is compared on"):
            check_calibration_images(wrong, OTHERS)
        return
    (warning,) = check_calibration_images(wrong, OTHERS)
    assert said in warning
