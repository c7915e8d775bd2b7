from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from runtime import Preprocessing, to_pixels

SIZES = [(224, 224), (98, 98), (32, 48), (57, 33)]
PICTURES = [(1, 1), (37, 37), (40, 300), (300, 40), (97, 98), (98, 98), (224, 224), (225, 224), (333, 500)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_preprocessing_is_timms_own_to_the_pixel(crop_mode: str, interpolation: str, channels: int) -> None:
    mean = (0.4, 0.5, 0.3)[:channels]
    generator = np.random.default_rng(0)
    crops = (1.0, 0.965, 0.9, 0.875, 0.5)
    for (rows, columns), (height, width), crop_pct in product(PICTURES, SIZES, crops):
        pixels = generator.integers(0, 256, (rows, columns, channels), dtype=np.uint8)
        picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        wanted = create_transform(
            (channels, height, width),
            interpolation=interpolation,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            mean=mean,
            std=(0.5,) * channels,
            normalize=False,
        )(picture)
        spec = Preprocessing(height, width, channels, mean, (0.5,) * channels, interpolation, crop_mode, crop_pct)  # type: ignore[arg-type]
        found = to_pixels(picture, spec)
        np.testing.assert_array_equal(found, wanted.numpy().transpose(1, 2, 0), f"{rows}x{columns}, {spec}")
