"""Changed copies of calibration images."""

from __future__ import annotations

import pytest
import torch

import compress.bases.varied as module
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


def test_a_quarter_of_the_copies_show_two_images() -> None:
    images = pictures(60)
    # contrast and brightness go beyond an image's own values by less than the distance to another image's
    flat = images.mean((1, 2, 3), keepdim=True).expand_as(images)
    seen = varied(flat, 240, 0)
    steps = torch.tensor([1 + int((own[0].flatten().sort().values.diff() > 0.01).sum()) for own in seen])
    assert int((steps == 1).sum()) == 60 + 135
    assert int((steps == 2).sum()) == 45
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


def test_nothing_is_mirrored_where_that_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INVERTED", 0.0)  # the negative of a ramp falls, too
    ramp = torch.linspace(0, 1, 16).expand(4, 1, 16, 16).contiguous()

    def falls(mirror: bool) -> bool:
        seen = varied(ramp, 4 + 40, 0, mirror=mirror)
        return any(bool((own[0, 8, 1:] < own[0, 8, :-1]).all()) for own in seen)

    assert falls(mirror=True)
    assert not falls(mirror=False)


def test_three_quarters_of_the_copies_have_other_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLOUR", 0.0)
    flat = torch.tensor([0.2, 0.5, 0.7])[:, None, None].expand(60, 3, 8, 8).contiguous()
    flat[0, :, 0, 0], flat[1, :, 0, 0] = 0.0, 1.0  # the range of every channel
    copies = varied(flat, 240, 0)[:, :, 4, 4]
    # a crop of a constant is constant up to rounding; half of the copies, and half of the others, are recoloured
    same = ((copies - torch.tensor([0.2, 0.5, 0.7])).abs() < 1e-4).all(1)
    assert int((~same).sum()) == 90 + 45
    falls = copies[:, 0] > copies[:, 1]
    assert 20 < int(falls.sum()) < 110


def test_copies_of_one_channel_keep_it_and_are_not_turned_if_they_are_not_square() -> None:
    images = torch.rand(6, 1, 16, 12, generator=torch.Generator().manual_seed(0))
    seen = varied(images, 24, 0)
    assert seen.shape == (24, 1, 16, 12)
    assert seen.min() >= images.min()
    assert seen.max() <= images.max()


def test_copies_are_turned_only_where_they_may_be_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLOUR", 0.0)
    rows = torch.linspace(0, 1, 16)[:, None].expand(4, 1, 16, 16).contiguous()

    def turned(mirror: bool) -> int:
        return sum(bool(own.std(2).max() > 0.1) for own in varied(rows, 4 + 60, 0, mirror=mirror))

    assert turned(mirror=True) >= 10
    # side by side, two ramps of rows differ along a row
    still = varied(rows, 4 + 60, 0, mirror=False)
    assert all(bool((own[0].diff(dim=1).abs() > 0.02).sum(1).max() <= 1) for own in still)
    assert any(bool((own[0].diff(dim=1).abs() > 0.02).sum(1).max() > 1) for own in varied(rows, 4 + 60, 0))


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
