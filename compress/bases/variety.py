"""How varied the images are that bases were found from."""

from __future__ import annotations

import torch

from .moments import Moments

_FEW, _ALIKE = 64, 4.0


def variety_of(moments: Moments) -> float:
    """Returns in how many directions the last norm's input varies, from 1 to the width of the stream.

    It is the participation ratio of the eigenvalues of the second moment, ``(sum e)^2 / sum e^2``: 1 where all tokens
    of all images are alike, and the width where all directions have the same energy.

    Args:
        moments: moments of a model.
    """
    own = torch.linalg.eigvalsh(moments.stream).clamp_min(0)
    return float(own.sum() ** 2 / own.square().sum().clamp_min(1e-300))


def remarks_on_images(images: int, variety: float) -> tuple[str, ...]:
    """Returns a sentence where bases serve no other images than those that they were found from.

    Args:
        images: number of different images that the bases were found from.
        variety: see ``variety_of``.
    """
    if images < _FEW:
        return (f"The bases are found from {images} images; give {_FEW} or more of what the model will see",)
    if variety < _ALIKE:
        return (
            f"The images that the bases are found from are all alike (their features span {variety:.1f} directions): "
            "the cut model serves no other kind",
        )
    return ()
