from __future__ import annotations

import torch

from compress.bases.variety import sameness_of


def test_one_picture_and_plain_ones_are_alike_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 3, 32, 32, generator=generator)
    assert abs(sameness_of(noise)) < 0.2
    assert sameness_of(noise[:1].repeat(40, 1, 1, 1) + 0.01 * noise) > 0.95
    assert sameness_of(torch.full((10, 1, 16, 16), 0.3)) > 0.95
