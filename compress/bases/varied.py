"""Changed copies of images, so that a few of them show a model more of what it may see."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

_AREA, _RATIO, _COLOUR = (0.3, 1.0), 4 / 3, 0.3
_CUT = (0.3, 0.7)
_WHOLE, _MIXED = 1 / 2, 1 / 4
_OTHER_COLOURS, _INVERTED, _GAMMA = 1 / 2, 0.3, (0.6, 1.6)


def varied(images: torch.Tensor, count: int, seed: int, *, mirror: bool = True) -> torch.Tensor:
    """Returns images in random order, some as they are and some changed, ``(count, C, H, W)``.

    Every image is there as it is, if ``count`` is large enough. The others are changed copies. Half of these show a
    whole image in other colours. A quarter show a random crop of 30 to 100 % of the area, scaled to the whole, perhaps
    mirrored, with other brightness and contrast. A quarter show such a crop on the left or above, and one of another
    image on the right or below. Half of the crops have other colours, too: the channels change places, three in ten
    copies become their negative, and mid-tones become lighter or darker (a gamma of 0.6 to 1.6). What has other colours
    is turned by a random number of quarters, where images may be mirrored and are square.

    Features of a model that is cut by few images are far better kept on other images with these copies than without:
    what is fitted to them sees each image in many places, sizes, neighbourhoods and colours.

    Args:
        images: ``(N, C, H, W)`` float32, normalised.
        count: number of images to return, at least 1; with fewer than N, the first are returned, each as it is.
        seed: seed of all changes and of the order.
        mirror: whether half of the copies may be mirrored.

    Ref: Yun et al. 2019 (CutMix, arXiv 1905.04899) put a part of another image into an image; Asano and Saeed 2021
        (arXiv 2112.00725) teach a model from many changed crops of a single image.
    """
    generator = torch.Generator().manual_seed(seed)
    missing = max(0, count - len(images))
    whole, mixed = round(_WHOLE * missing), round(_MIXED * missing)
    as_they_are, changed, first, second = (
        _drawn(images, number, generator) for number in (whole, missing - whole - mixed, mixed, mixed)
    )
    changed, first, second = (_changed(own, mirror, generator) for own in (changed, first, second))
    rest = torch.cat([changed, _side_by_side(first, second, generator)])
    others = torch.randperm(len(rest), generator=generator)[: round(_OTHER_COLOURS * len(rest))]
    rest[others] = _recoloured(rest[others], images, mirror, generator)
    seen = torch.cat([images[:count], _recoloured(as_they_are, images, mirror, generator), rest])
    return seen[torch.randperm(count, generator=generator)]


def _drawn(images: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Returns ``count`` images in random order, each as often as another, give or take one."""
    rounds = math.ceil(count / len(images))
    orders = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
    return images[torch.cat(orders)[:count]] if orders else images[:0]


def _changed(images: torch.Tensor, mirror: bool, generator: torch.Generator) -> torch.Tensor:
    """Returns the images randomly cropped, mirrored and coloured; no value leaves the range of all images."""
    count = len(images)
    if not count:
        return images

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area, ratio = uniform(*_AREA), uniform(-math.log(_RATIO), math.log(_RATIO)).exp()
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    placed = torch.zeros(count, 2, 3)
    placed[:, 0, 0] = width * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if mirror else width
    placed[:, 1, 1] = height
    placed[:, 0, 2], placed[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(placed, list(images.shape), align_corners=False)
    out = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    contrast, brightness = (uniform(-_COLOUR, _COLOUR)[:, None, None, None] for _ in range(2))
    mean = out.mean((1, 2, 3), keepdim=True)
    out = mean + (1 + contrast) * (out - mean) + brightness * (high - low) / 3
    return torch.minimum(torch.maximum(out, low), high)


def _recoloured(copies: torch.Tensor, images: torch.Tensor, turn: bool, generator: torch.Generator) -> torch.Tensor:
    """Returns copies in other colours, and turned by quarters where that is allowed and they are square.

    Every channel keeps the range that it has in ``images``.
    """
    low, high = images.amin((0, 2, 3))[:, None, None], images.amax((0, 2, 3))[:, None, None]
    span, out = (high - low).clamp_min(1e-12), torch.empty_like(copies)
    turn = turn and copies.shape[-1] == copies.shape[-2]
    for index, copy in enumerate(copies):
        order = torch.randperm(len(copy), generator=generator)
        inverted, gamma, quarters = torch.rand(3, generator=generator).tolist()
        share = ((copy - low) / span)[order].clamp(0, 1)
        share = (1 - share if inverted < _INVERTED else share) ** (_GAMMA[0] + (_GAMMA[1] - _GAMMA[0]) * gamma)
        out[index] = low + span * (share.rot90(int(4 * quarters), (1, 2)) if turn else share)
    return torch.minimum(torch.maximum(out, low), high)


def _side_by_side(images: torch.Tensor, others: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns images of which the left or upper part, 30 to 70 %, is from ``others``."""
    out = images.clone()
    shares = _CUT[0] + (_CUT[1] - _CUT[0]) * torch.rand(len(images), generator=generator)
    for index, share in enumerate(shares.tolist()):
        height, width = out.shape[-2:]
        if index % 2:
            width = round(share * width)
        else:
            height = round(share * height)
        out[index, :, :height, :width] = others[index, :, :height, :width]
    return out
