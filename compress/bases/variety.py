"""How alike the images are that bases are found from."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_SIDE, _MOST = 8, 256
_FEW, _ALIKE = 64, 0.9


def sameness_of(images: torch.Tensor) -> float:
    """Returns the median correlation of two images, -1 to 1, seen as gray thumbnails of 8 by 8 pixels.

    It is 1 where the images are one picture or have no content. Bases that are found from images of one kind serve no
    other kind.

    Args:
        images: ``(N, C, H, W)``, at least two; the first 256 are compared.
    """
    small = F.adaptive_avg_pool2d(images[:_MOST].float().mean(1, keepdim=True), _SIDE).flatten(1)
    small = small - small.mean(1, keepdim=True)
    norms = small.norm(dim=1)
    plain = norms <= 1e-6 * max(1.0, float(norms.max()))
    unit = small / norms.clamp_min(1e-12)[:, None]
    unit[plain] = unit.new_ones(unit.shape[1]) / unit.shape[1] ** 0.5
    products = unit @ unit.T
    rows, columns = torch.triu_indices(len(unit), len(unit), 1)
    return float(products[rows, columns].median())


def remarks_on_images(images: int, sameness: float) -> tuple[str, ...]:
    """Returns a sentence where bases serve no other images than those that they were found from.

    Args:
        images: number of different images that the bases were found from.
        sameness: see ``sameness_of``.
    """
    if images < _FEW:
        return (f"The bases are found from {images} images; give {_FEW} or more of what the model will see",)
    if sameness > _ALIKE:
        return (
            f"The images that the bases are found from are all alike (two correlate by {sameness:.2f}): the cut model "
            "serves no other kind",
        )
    return ()
