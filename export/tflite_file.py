"""A sliced ViT as a TFLite file, float32, one image at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress import SlicedViT, evaluating
from runtime import MissingExtraError, quiet

INPUT = "image"


class ChannelsLast(nn.Module):
    """The model with images as ``(B, H, W, C)``, the layout cameras and phones hold them in."""

    def __init__(self, model: SlicedViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, H, W, C)`` to logits ``(B, num_classes)``."""
        logits: torch.Tensor = self.model(image.permute(0, 3, 1, 2))
        return logits


def write_tflite(model: SlicedViT, path: Path) -> None:
    """Writes ``model`` to ``path``: input ``image (1, H, W, C)``, output ``(1, classes)``, float32.

    Raises:
        MissingExtraError: litert-torch is not installed.
    """
    with quiet():
        try:
            import litert_torch
        except ImportError:
            raise MissingExtraError("litert-torch", "export") from None
        plan = model.plan
        example = torch.zeros(1, *plan.img_size, plan.in_chans)
        wrapped = ChannelsLast(model)
        with evaluating(model), evaluating(wrapped):
            litert_torch.convert(wrapped, sample_kwargs={INPUT: example}).export(str(path))
