"""Changed copies of calibration images."""

from __future__ import annotations

import pytest
import torch

from compress.bases.counts import COPIES, images_to_see
from compress.bases.varied import varied


def pictures(count: int, side: int = 16) -> torch.Tensor:
    """Returns images of which each has a range of values of its own, 4 n to 4 n + 1."""
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, side, side, generator=generator) + 4 * torch.arange(count)[:, None, None, None]


def whole_ones(images: torch.Tensor, among: torch.Tensor) -> int:
    """Returns how many of the images stand unchanged among others."""
    return sum(any(torch.equal(own, other) for other in among) for own in images)


@pytest.mark.parametrize("count", [1, 5, 6, 7, 24])
def test_every_image_is_there_as_it_is(count: int) -> None:
    images = pictures(6)
    seen = varied(images, count, 0)
    assert seen.shape == (count, 3, 16, 16)
    assert whole_ones(images, seen) == min(count, 6)
    assert torch.equal(seen, varied(images, count, 0))
    if count > 6:
        assert not torch.equal(seen, varied(images, count, 1))


def test_two_thirds_of_the_copies_show_two_images() -> None:
    images = pictures(60)
    # contrast and brightness go beyond an image's own values by less than the distance to another image's
    flat = images.mean((1, 2, 3), keepdim=True).expand_as(images)
    seen = varied(flat, 240, 0)
    steps = torch.tensor([1 + int((own[0].flatten().sort().values.diff() > 0.01).sum()) for own in seen])
    assert int((steps == 1).sum()) == 120
    assert int((steps == 2).sum()) == 120
    for own in seen[steps == 2]:
        # each part is a rectangle at an edge: 30 to 70 % of the rows or of the columns
        first = (own[0] - own[0, 0, 0]).abs() < 0.005
        assert 0.25 <= float(first.float().mean()) <= 0.75
        assert first.all(0).any() or first.all(1).any()


def test_copies_stay_within_the_range_of_each_channel() -> None:
    images = torch.rand(8, 3, 16, 16) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] - 1
    seen = varied(images, 32, 0)
    assert torch.equal(seen.amin((0, 2, 3)), images.amin((0, 2, 3)))
    assert torch.equal(seen.amax((0, 2, 3)), images.amax((0, 2, 3)))


def test_nothing_is_mirrored_where_that_is_not_allowed() -> None:
    ramp = torch.linspace(0, 1, 16).expand(4, 1, 16, 16).contiguous()

    def falls(mirror: bool) -> bool:
        seen = varied(ramp, 4 + 40, 0, mirror=mirror)
        return any(bool((own[0, 8, 1:] < own[0, 8, :-1]).all()) for own in seen)

    assert falls(mirror=True)
    assert not falls(mirror=False)


def test_an_image_is_copied_as_often_as_another() -> None:
    images = pictures(4).mean((1, 2, 3), keepdim=True).expand(4, 3, 16, 16)
    values, counts = torch.unique(varied(images, 6, 0).round().mean((1, 2, 3)), return_counts=True)
    assert counts.max() <= 3
    assert len(values) >= 4


def test_the_number_of_images_falls_with_the_tokens_of_each() -> None:
    assert images_to_see(500, 50) == 500 * (1 + COPIES)
    assert images_to_see(1000, 50) == 2120
    assert images_to_see(3000, 50) == 3000
    assert images_to_see(1000, 257) == 1000
    assert images_to_see(40, 257) == 160
    assert images_to_see(40, 257, copies=0) == 40
    assert images_to_see(40, 257, copies=1) == 80
