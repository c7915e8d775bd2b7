"""What a grid reads behind an inner block: the last norm's like, and a Linear into the whole model's coordinates."""

from __future__ import annotations

import torch
from torch import nn

from runtime import ShapePlan

from .norms import norm_of


class Tap(nn.Module):
    """Norms the tokens behind an inner block and maps the patches among them to the coordinates of the whole model.

    Args:
        plan: plan of the model.
        index: position of the block in ``plan.grid_blocks``.

    Ref: Oquab et al. 2023 (DINOv2, arXiv 2304.07193), section 7.4, read the last four blocks for segmentation and
        depth; their ``get_intermediate_layers(norm=True)`` puts every one of them through the last norm.
    """

    def __init__(self, plan: ShapePlan, index: int) -> None:
        super().__init__()
        self.norm = norm_of(plan, f"taps.{index}.norm") if plan.norm != "none" else nn.Identity()
        self.head = nn.Linear(plan.embed_dim, plan.num_classes)
        self.skip = plan.num_prefix_tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps the stream ``(B, N, embed_dim)`` to values of patches ``(B, patches, num_classes)``."""
        values: torch.Tensor = self.head(self.norm(x)[:, self.skip :])
        return values
