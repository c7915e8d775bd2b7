"""Converts a timm Vision Transformer to a ``SlicedViT`` with the same outputs; refuses unsupported parts by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runtime import BlockPlan, MissingExtraError, ModelError, NormPlace, Pooling, PoolPlan, PosEmbed, ShapePlan, StemOp

from .parts.mlp import ACTIVATIONS
from .views.blocks import AttentionView, BlockView, MlpView, block_view, kind_of, plain_block_weights, refused_block
from .views.kinds import VIEWS, plain_weights, seen_as_plain
from .views.naflex import refused_embedding
from .views.pooling import pool_from_timm, pool_to_timm, refused_pool
from .views.relative import has_position_bias, relative_to_timm
from .views.stems import stem_of
from .vit import SlicedViT, build

try:
    from timm.layers import Attention, HybridEmbed, LayerScale, Mlp, PatchEmbed, get_act_layer
    from timm.models import beit
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
    from timm.models.vision_transformer_relpos import RelPosAttention, RelPosBlock, ResPostRelPosBlock
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None


class ClassAndMeanViT(VisionTransformer):  # type: ignore[misc]
    """A Vision Transformer whose classifier reads the class token and the mean of the patches, both after the norm.

    Its two heads are averaged: ``head`` reads the class token and ``head_dist`` the mean, as ``Dinov2`` classifiers of
    ``transformers`` do with one head that reads both side by side.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "global_pool": "token"})
        self.head_dist = nn.Linear(self.embed_dim, self.num_classes)
        nn.init.trunc_normal_(self.head_dist.weight, std=0.02)
        nn.init.zeros_(self.head_dist.bias)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to logits ``(B, num_classes)``, or to the class token ``(B, C)``."""
        if pre_logits:
            return x[:, 0]
        second = self.head_dist(x[:, self.num_prefix_tokens :].mean(dim=1))
        averaged: torch.Tensor = (self.head(x[:, 0]) + second) / 2
        return averaged


def from_timm(model: Any) -> SlicedViT:
    """Returns a ``SlicedViT`` with copies of the model's weights and equal outputs.

    Raises:
        ModelError: a part of the model is not supported, by name.
    """
    plan = plan_of_timm(model)
    weights = _rename(plain_block_weights(plain_weights(model), model.blocks))
    if isinstance(embed := getattr(model, "patch_embed", None), HybridEmbed):
        own = {name: value for name, value in weights.items() if not name.startswith("patch_embed.")}
        weights = own | stem_of(embed).weights
    return build(plan, pool_from_timm(weights))


def plan_of_timm(model: Any) -> ShapePlan:
    """Returns the plan of a timm Vision Transformer.

    Raises:
        ModelError: a part of the model is not supported, by name.
        PlanError: the image does not divide into patches, or a width is not a multiple of 8.
    """
    _refuse_unsupported(model)
    biased, model = has_position_bias(model), seen_as_plain(model)
    embed = _Embedding.of(model.patch_embed)
    blocks = [block_view(block) for block in model.blocks]
    first = blocks[0]
    distilled = isinstance(model, VisionTransformerDistilled)
    norm: NormPlace = "after_pool" if not _absent(model.fc_norm) else "none" if _absent(model.norm) else "before_pool"
    pooling: Pooling = "token" if model.global_pool == "token" else "avg_all" if model.pool_include_prefix else "avg"
    if isinstance(model, ClassAndMeanViT):
        pooling = "token_and_avg"
    pool = model.attn_pool
    if pool is not None:
        pooling = "map"
    pos_embed: PosEmbed = "none" if model.pos_embed is None else "patches" if model.no_embed_class else "all"
    return ShapePlan(
        img_size=tuple(model.patch_embed.img_size),
        patch_size=embed.patch_size,
        in_chans=embed.in_chans,
        num_classes=model.head.out_features,
        embed_dim=model.embed_dim,
        blocks=tuple(
            BlockPlan(b.attn.num_heads, *2 * (b.attn.proj.in_features // b.attn.num_heads,), b.mlp.fc1.out_features)
            for b in blocks
        ),
        attn_scale=float(first.attn.scale),
        class_token=model.cls_token is not None,
        dist_token=distilled,
        reg_tokens=model.num_reg_tokens if model.reg_token is not None else 0,
        pos_embed=pos_embed,
        pooling=pooling,
        norm_pre=not _absent(model.norm_pre),
        norm=norm,
        norm_eps=float(first.norm1.eps),
        act=_activation(first.mlp.act),
        qkv_bias=first.attn.qkv.bias is not None or getattr(first.attn, "q_bias", None) is not None,
        proj_bias=first.attn.proj.bias is not None,
        patch_bias=embed.bias,
        layer_scale=_has_scale(first),
        position_bias=biased,
        block_kind=kind_of(model.blocks[0]),
        stem=embed.stem,
        attn_pool=None
        if pool is None
        else PoolPlan(
            pool.num_heads, pool.head_dim, pool.mlp.fc1.out_features, float(pool.norm.eps), model.pool_include_prefix
        ),
    )


@dataclass(frozen=True)
class _Embedding:
    """What a plan holds of a patch embedding: its patches, input channels and bias, and the stem before it."""

    patch_size: tuple[int, int]
    in_chans: int
    bias: bool
    stem: tuple[StemOp, ...] = ()

    @classmethod
    def of(cls, embed: Any) -> _Embedding:
        if isinstance(embed, HybridEmbed):
            found = stem_of(embed)
            return cls(found.patch, embed.in_chans, "patch_embed.bias" in found.weights, found.ops)
        return cls(tuple(embed.patch_size), embed.proj.in_channels, embed.proj.bias is not None)


def _rename(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Maps timm's parameter names to those of ``SlicedViT``; the joint qkv weight becomes three."""
    renamed: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if ".attn.qkv." in name:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace(".qkv.", f".{part}.")] = third
            continue
        new = name.replace("patch_embed.proj.", "patch_embed.").replace("fc_norm.", "norm.")
        renamed[new.replace(".ls1.gamma", ".gamma1").replace(".ls2.gamma", ".gamma2")] = value
    for name in [name for name in renamed if ".mlp.fc" in name and name.endswith(".weight")]:
        renamed.setdefault(name.replace(".weight", ".bias"), renamed[name].new_zeros(len(renamed[name])))
    return renamed


def to_timm(weights: Mapping[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Maps parameter names of a ``SlicedViT`` to timm's; the three weights of an attention become one.

    Args:
        weights: weights by name; those of any other network are returned as they are.
        wanted: timm's parameter names of the model that will take the weights.
    """
    if not any(".attn.q." in name for name in weights):
        return dict(weights)
    back = dict(_NO_WAY_BACK)
    back |= {name: "timm's convolutional stem, since its norms are folded" for name in wanted if _BACKBONE in name}
    for name, place in back.items():
        if name in wanted:
            raise ModelError(f"These weights have no place in {place}", fix="Load them with pocketvit.load")
    renamed: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if ".attn.k." in name or ".attn.v." in name:
            continue
        new = name.replace(".gamma1", ".ls1.gamma").replace(".gamma2", ".ls2.gamma")
        if name.startswith("patch_embed."):
            new = name.replace("patch_embed.", "patch_embed.proj.")
        if name.startswith("norm.") and name not in wanted:
            new = f"fc_{name}"
        if ".attn.q." in name:
            parts = [weights.get(name.replace(".q.", f".{part}."), value[:0]) for part in "qkv"]
            new, value = name.replace(".q.", ".qkv."), torch.cat(parts)
        renamed[new] = value
    for name in [name for name in renamed if ".mlp.fc" in name and name.endswith(".bias") and name not in wanted]:
        if renamed.pop(name).any():
            raise ModelError(f"The weight '{name}' has no place in this timm model", fix="Load it with pocketvit.load")
    return pool_to_timm(relative_to_timm(renamed, wanted), wanted)


def _has_scale(block: Any) -> bool:
    return isinstance(getattr(block, "ls1", None), LayerScale) or getattr(block, "gamma_1", None) is not None


def _absent(module: Any) -> bool:
    return module is None or isinstance(module, nn.Identity)


_BACKBONE = "patch_embed.backbone."
_NO_WAY_BACK = {
    "embeds.proj.weight": "a timm model for images of any shape, since they are those of one size",
    "blocks.0.in_proj.weight": "timm's parallel blocks, since their parts are joined",
    "blocks.0.attns.0.norm.weight": "timm's parallel blocks, since their parts are joined",
}
"""Parameter names of timm models to which weights cannot go back, and why."""

BLOCKS = (Block, beit.Block, RelPosBlock, ResPostBlock, ResPostRelPosBlock, BlockView)
"""Classes of blocks that can be computed exactly."""

_REFUSED_PARTS = {
    "SwiGLU": "SwiGLU MLP",
    "SwiGLUPacked": "SwiGLU MLP",
    "GluMlp": "gated MLP (SwiGLU or GLU)",
    "RmsNorm": "RMSNorm",
    "DiffParallelScalingBlock": "differential attention",
    "DiffAttention": "differential attention",
}


def _refuse_unsupported(model: Any) -> None:
    """Raises ``ModelError`` with the first part of ``model`` that slicing does not support exactly."""
    kind = type(model).__name__
    if type(model) not in (VisionTransformer, VisionTransformerDistilled, ClassAndMeanViT, *VIEWS):
        windows = any("Window" in type(part).__name__ for part in model.modules())
        part = "window attention" if windows else f"the architecture {kind}"
        raise _unsupported(part, "a plain timm VisionTransformer (vit_*, deit_*, deit3_*, DINOv2)")
    naflex = hasattr(model, "embeds")
    if naflex and (embedding := refused_embedding(model)):
        raise _unsupported(embedding)
    model = seen_as_plain(model)
    hybrid = type(model.patch_embed) is HybridEmbed and not model.patch_embed.dynamic_img_pad
    plain = type(model.patch_embed) is PatchEmbed and _absent(model.patch_embed.norm)
    if not (naflex or hybrid or plain):
        raise _unsupported(_REFUSED_PARTS.get(type(model.patch_embed).__name__, "this patch embedding"))
    if not model.blocks:
        raise _unsupported("no transformer block", "at least one")
    if isinstance(model, VisionTransformerDistilled) and not (model.reg_token is None and _absent(model.fc_norm)):
        raise _unsupported("a distillation token together with register tokens or a norm after pooling")
    if model.global_pool not in ("token", "avg", "map"):
        raise _unsupported(f"'{model.global_pool}' pooling", "pooling by class token, by average or by attention")
    if model.attn_pool is not None:
        _refuse_pool(model)
    norms = [model.norm_pre, model.norm, model.fc_norm]
    if len({type(block) for block in model.blocks}) != 1:
        raise _unsupported("blocks of several kinds")
    for block in model.blocks:
        if part := refused_block(block):
            raise _unsupported(part)
        block = block_view(block)
        _refuse_block(block)
        norms += [block.norm1, block.norm2]
    norms = [norm for norm in norms if not _absent(norm)]
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
            raise _unsupported(_REFUSED_PARTS.get(type(norm).__name__, f"the norm {type(norm).__name__}"), "LayerNorm")
    if len({norm.eps for norm in norms}) != 1:
        raise _unsupported("LayerNorms with different epsilons")
    if not isinstance(model.head, nn.Linear):
        raise _unsupported("a model without a linear classifier")


def _refuse_pool(model: Any) -> None:
    part = refused_pool(model.attn_pool)
    if part is None and not _absent(model.fc_norm):
        part = "attention pooling with a norm behind it"
    if part is None and _activation(model.attn_pool.mlp.act) != _activation(model.blocks[0].mlp.act):
        part = "attention pooling with another activation than the blocks"
    if part is not None:
        raise _unsupported(part)


def _refuse_block(block: Any) -> None:
    if type(block) not in BLOCKS:
        raise _unsupported(_REFUSED_PARTS.get(type(block).__name__, f"the block {type(block).__name__}"))
    attn, mlp = block.attn, block.mlp
    if type(attn) not in (Attention, beit.Attention, RelPosAttention, AttentionView):
        raise _unsupported(_REFUSED_PARTS.get(type(attn).__name__, f"the attention {type(attn).__name__}"))
    if not (_absent(getattr(attn, "q_norm", None)) and _absent(getattr(attn, "k_norm", None))):
        raise _unsupported("query/key normalisation (q/k norm)")
    if not _absent(getattr(attn, "norm", None)) or getattr(attn, "gate", None) is not None:
        raise _unsupported("normalised or gated attention output")
    if type(mlp) not in (Mlp, MlpView):
        raise _unsupported(_REFUSED_PARTS.get(type(mlp).__name__, f"the MLP {type(mlp).__name__}"))
    if not _absent(mlp.norm) or isinstance(mlp.fc1, nn.Conv2d):
        raise _unsupported("an MLP with a norm or convolutions")
    for scale in (getattr(block, "ls1", None), getattr(block, "ls2", None)):
        if not _absent(scale) and not isinstance(scale, LayerScale):
            raise _unsupported(f"the residual scale {type(scale).__name__}")


def _unsupported(part: str, expected: str | None = None) -> ModelError:
    return ModelError(
        f"This model uses {part}, which is not supported", expected=expected, fix="Choose another --model"
    )


def _activation(module: Any) -> Any:
    probe = torch.linspace(-4, 4, 33, device="cpu")
    for name in ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"):
        layer = get_act_layer(name)
        if layer is not None and type(module) is layer:
            return name
    for name, function in ACTIVATIONS.items():
        if torch.equal(module(probe), function(probe)):
            return name
    raise _unsupported(f"the activation {type(module).__name__}", "GELU, QuickGELU, ReLU or SiLU")
