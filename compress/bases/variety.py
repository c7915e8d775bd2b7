"""How varied the images are that bases were found from."""

from __future__ import annotations

import torch

from .moments import Moments


def variety_of(moments: Moments) -> float:
    """Returns in how many directions the last norm's input varies, from 1 to the width of the stream.

    It is the participation ratio of the eigenvalues of the second moment, ``(sum e)^2 / sum e^2``: 1 where all tokens
    of all images are alike, and the width where all directions have the same energy.

    Args:
        moments: moments of a model.
    """
    own = torch.linalg.eigvalsh(moments.stream).clamp_min(0)
    return float(own.sum() ** 2 / own.square().sum().clamp_min(1e-300))
