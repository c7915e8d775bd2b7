"""The tiny classifier that every engine test runs: mean over the image, then a linear layer with known weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

SIZE = 8
WEIGHT = np.array([[2.0, -1.0, 0.5], [-1.5, 2.5, 0.25], [0.75, -0.5, 3.0]], np.float32)
BIAS = np.array([0.1, -0.2, 0.3], np.float32)
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def expected_logits(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns logits ``(B, 3)`` of images ``(B, H, W, 3)``, in float64 inside."""
    logits: npt.NDArray[np.float32] = (images.astype(np.float64).mean((1, 2)) @ WEIGHT.T + BIAS).astype(np.float32)
    return logits
