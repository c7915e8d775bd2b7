"""A convolutional stem, which is kept whole: it makes the feature map that the patch embedding reads."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from runtime import ShapePlan, StemOp, stem_sizes


class Stem(nn.Module):
    """Computes the operators of ``ShapePlan.stem`` one after the other.

    Normalisations by stored statistics and standardised weights are folded into the convolutions when a model is
    converted, so that a stem holds plain operators.

    Args:
        plan: plan of the model, with a stem.

    Ref: Xiao et al. 2021 (Early Convolutions Help Transformers See Better, arXiv 2106.14881), section 4; Dosovitskiy et
        al. 2021 (arXiv 2010.11929), hybrid architecture.
    """

    def __init__(self, plan: ShapePlan) -> None:
        super().__init__()
        self.ops = plan.stem
        sizes = stem_sizes(plan.stem, plan.in_chans, plan.img_size)
        for number, op in enumerate(plan.stem):
            read = sizes[op.sources[0]][0] if op.sources[0] >= 0 else plan.in_chans
            if op.kind == "conv":
                self.add_module(str(number), nn.Conv2d(read, op.out_chans, op.kernel, op.stride, groups=op.groups))
            elif op.kind == "layer_norm":
                self.add_module(str(number), nn.LayerNorm(op.out_chans, op.eps))
            elif op.kind == "group_norm":
                self.add_module(str(number), nn.GroupNorm(op.groups, op.out_chans, op.eps))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to the last feature map ``(B, map_chans, *map_size)``."""
        maps: list[torch.Tensor] = []
        for number, op in enumerate(self.ops):
            inputs = [maps[source] if source >= 0 else images for source in op.sources]
            maps.append(self._computed(number, op, inputs))
        return maps[-1]

    def _computed(self, number: int, op: StemOp, inputs: list[torch.Tensor]) -> torch.Tensor:
        x, (top, bottom, left, right) = inputs[0], op.padding
        if op.kind == "mean_pool":
            return F.avg_pool2d(x, op.kernel, op.stride, (top, left), count_include_pad=False)
        if op.kind == "layer_norm":
            normed: torch.Tensor = self.get_submodule(str(number))(x.permute(0, 2, 3, 1))
            return normed.permute(0, 3, 1, 2)
        if any(op.padding):
            x = F.pad(x, (left, right, top, bottom))
        match op.kind:
            case "conv" | "group_norm":
                own: torch.Tensor = self.get_submodule(str(number))(x)
                return own
            case "max_pool":
                return F.max_pool2d(x, op.kernel, op.stride)
            case "add":
                return x + inputs[1]
            case "relu":
                return F.relu(x)
            case "silu":
                return F.silu(x)
        return F.gelu(x)
