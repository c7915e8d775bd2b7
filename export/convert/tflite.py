"""Writes any model of timm as a float32 TFLite file, with litert-torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from runtime import quiet

from .rewrites import RewrittenNetwork


def convert_to_tflite(model: torch.nn.Module, image: tuple[int, int, int], path: Path) -> None:
    """Writes ``model`` with one image ``(1, H, W, C)`` as its input.

    Args:
        model: a classifier in evaluation mode, images ``(B, C, H, W)`` to logits ``(B, N)``.
        image: its channels, height and width.
        path: of the file.
    """
    import litert_torch

    channels, height, width = image
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        last = litert_torch.to_channel_last_io(RewrittenNetwork(model), args=[0]).eval()
        litert_torch.convert(last, (torch.zeros(1, height, width, channels),)).export(str(path))
