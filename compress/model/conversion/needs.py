"""The classes of timm that conversion knows, or the error that names the extra to install."""

from __future__ import annotations

from runtime import MissingExtraError

try:
    from timm.layers import (
        Attention,
        AttentionRope,
        GluMlp,
        HybridEmbed,
        LayerScale,
        Mlp,
        PatchEmbed,
        RmsNorm,
        RmsNormFp32,
        SwiGLU,
        get_act_layer,
    )
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
    from timm.models.vision_transformer import Block, VisionTransformer
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None

RmsNorms = (RmsNorm, RmsNormFp32)

__all__ = [
    "Attention",
    "AttentionRope",
    "Block",
    "Eva",
    "EvaAttention",
    "EvaBlock",
    "EvaBlockPostNorm",
    "GluMlp",
    "HybridEmbed",
    "LayerScale",
    "Mlp",
    "PatchEmbed",
    "RmsNorms",
    "SwiGLU",
    "VisionTransformer",
    "VisionTransformerDistilled",
    "get_act_layer",
]
