"""Random changes to training pictures, drawn from one random generator per picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from runtime import Preprocessing, to_channels

from .dataset import Dataset

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random changes to a training picture; the defaults are those of the published method.

    Attributes:
        crop_area: smallest and largest share of the picture's area that a random crop keeps, 0..1.
        mirror: probability of a horizontal flip.
        jitter: largest relative change of brightness, contrast and saturation.
    """

    crop_area: tuple[float, float] = (0.8, 1.0)
    mirror: float = 0.5
    jitter: float = 0.3


def augmentation_for(data: Dataset) -> Augmentation:
    """Returns the default augmentation, without mirroring where a mirrored picture may be of another class."""
    return Augmentation() if data.mirror else Augmentation(mirror=0.0)


def augment(
    image: Image.Image, spec: Preprocessing, changes: Augmentation, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Returns a randomly cropped, resized, flipped and coloured picture, ``(H, W, C)`` uint8.

    The distributions are those of torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter. This module
    draws them itself, since torchvision uses torch's global generator, which threads would share.

    Args:
        image: the picture.
        spec: the model's input.
        changes: limits of the changes.
        generator: source of all randomness.
    """
    image = to_channels(image, spec.channels)
    top, left, height, width = _crop(image.height, image.width, changes.crop_area, generator)
    size, interpolation = [spec.height, spec.width], InterpolationMode(spec.interpolation)
    image = tv.resized_crop(image, top, left, height, width, size, interpolation)
    if generator.random() < changes.mirror:
        image = tv.horizontal_flip(image)
    if changes.jitter > 0:
        adjustments = [tv.adjust_brightness, tv.adjust_contrast]
        if spec.channels == 3:
            adjustments.append(tv.adjust_saturation)
        for index in generator.permutation(len(adjustments)):
            image = adjustments[index](image, generator.uniform(max(0.0, 1 - changes.jitter), 1 + changes.jitter))
    return np.asarray(image, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels)


def _crop(
    height: int, width: int, area: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width) of a crop; returns the centre where no drawn shape fits."""
    for _ in range(_TRIES):
        pixels = height * width * generator.uniform(*area)
        ratio = math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(0, height - h + 1)), int(generator.integers(0, width - w + 1)), h, w
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w
