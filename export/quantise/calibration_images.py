"""Checks that the images that set integer ranges are like those that the file will see."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runtime import DataError

from .calibrate import check_calibration

FEW_IMAGES = 16
"""Fewer calibration images than this are noticed: a range set by so few misses what other images reach."""

_WARNED_RATIO, _REFUSED_RATIO = 1.5, 4.0
_WARNED_SHIFT, _REFUSED_SHIFT = 0.5, 2.0
_FIX = "Prepare the calibration images as the model's own input: the same size, scale, mean and standard deviation"


def check_calibration_images(images: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> tuple[str, ...]:
    """Checks the images that set ranges, and returns a warning for each thing that makes them doubtful.

    The values of each channel are compared with those of other images of the same data. Images that were normalised in
    another way, or not at all, have another mean or another spread.

    Args:
        images: images that set the ranges, ``(N, H, W, C)`` float32, preprocessed.
        others: images that the file will be compared on, ``(M, H, W, C)`` float32, preprocessed.

    Raises:
        DataError: there are fewer than two images, they are all the same, half of them or more are of one colour, or
            their values are far from those of the other images.
    """
    check_calibration(images)
    plain = int((np.ptp(images, axis=(1, 2)).max(axis=-1) == 0).sum())
    if 2 * plain >= len(images):
        raise DataError(
            "The calibration images show nothing",
            expected="pictures, most of them of more than one colour",
            got=f"{plain} of {len(images)} images of one colour",
            fix="Calibrate on images like those that the file will see",
        )
    found = []
    if len(images) < FEW_IMAGES:
        found.append(f"Only {len(images)} images set the integer ranges; {FEW_IMAGES} or more cover what others reach.")
    ratio, shift = _spread_ratio(images, others), _shift(images, others)
    if max(ratio, 1 / ratio) > _REFUSED_RATIO or shift > _REFUSED_SHIFT:
        raise DataError(
            "The calibration images have other values than the images that the file is compared on",
            expected=f"a spread of 1/{_REFUSED_RATIO:g} to {_REFUSED_RATIO:g} times theirs, and a mean within "
            f"{_REFUSED_SHIFT:g} of their standard deviations",
            got=f"{ratio:.3g} times, and a mean {shift:.3g} standard deviations away",
            fix=_FIX,
        )
    if max(ratio, 1 / ratio) > _WARNED_RATIO or shift > _WARNED_SHIFT:
        found.append(
            f"The calibration images have {ratio:.2g} times the spread of the images that the file is compared on, and "
            f"a mean {shift:.2g} standard deviations away. {_FIX}."
        )
    return tuple(found)


def _spread_ratio(images: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """Returns the standard deviation of the values of ``images`` over that of ``others``."""
    return max(float(images.std(dtype=np.float64)), 1e-12) / max(float(others.std(dtype=np.float64)), 1e-12)


def _shift(images: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """Returns the largest difference of a channel's means, in standard deviations of ``others``."""
    means, wanted = (own.mean(axis=(0, 1, 2), dtype=np.float64) for own in (images, others))
    return float(np.abs(means - wanted).max()) / max(float(others.std(dtype=np.float64)), 1e-12)
