"""Converts a timm Vision Transformer to a ``SlicedViT`` with the same outputs; refuses unsupported parts by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runtime import ModelError, NormPlace, Pooling, PosEmbed, ShapePlan, StemOp

from .conversion.blocks import block_kind_of, plain_block, refused_block
from .conversion.eva import eva_weights, plan_of_eva
from .conversion.inner import (
    block_norms,
    block_plan,
    epsilons,
    inner_options,
    inner_weights,
    is_absent,
    norm_kind,
    unsupported_part,
    without_gains,
)
from .conversion.kinds import VIEWS, plain_weights, seen_as_plain
from .conversion.naflex import refused_embedding
from .conversion.needs import (
    Attention,
    Block,
    Eva,
    HybridEmbed,
    LayerScale,
    PatchEmbed,
    VisionTransformer,
    VisionTransformerDistilled,
)
from .conversion.pooling import pool_from_timm, pool_plan, pool_to_timm, refuse_pool
from .conversion.relative import has_position_bias, position_tables, relative_to_timm
from .conversion.stems import stem_of
from .vit import SlicedViT, build


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
    weights = eva_weights(model) if type(model) is Eva else _vit_weights(model)
    return build(plan, without_gains(pool_from_timm(weights), plan)[0])


def _vit_weights(model: Any) -> dict[str, torch.Tensor]:
    """Returns the weights of a ``VisionTransformer`` named as in ``SlicedViT``."""
    weights = {name: own for name, own in _rename(plain_weights(model)).items() if not name.startswith("blocks.")}
    for i, block in enumerate(map(plain_block, model.blocks)):
        own = inner_weights(block)
        for norm, module in block_norms(block).items():
            own |= {f"{norm}.{name}": value for name, value in module.named_parameters()}
        own |= {f"gamma{k}": scale.gamma for k, scale in ((1, block.ls1), (2, block.ls2)) if not is_absent(scale)}
        weights |= {f"blocks.{i}.{name}": value.detach() for name, value in own.items()}
    if isinstance(embed := getattr(model, "patch_embed", None), HybridEmbed):
        rest = {name: value for name, value in weights.items() if not name.startswith("patch_embed.")}
        weights = rest | stem_of(embed).weights
    return weights | position_tables(model)


def plan_of_timm(model: Any) -> ShapePlan:
    """Returns the plan of a timm Vision Transformer.

    Raises:
        ModelError: a part of the model is not supported, by name.
        PlanError: the image does not divide into patches, or a width is not a multiple of 8.
    """
    if type(model) is Eva:
        return plan_of_eva(model)
    _refuse_unsupported(model)
    biased, model = has_position_bias(model), seen_as_plain(model)
    embed, blocks = _Embedding.of(model.patch_embed), [plain_block(block) for block in model.blocks]
    first, pool = blocks[0], model.attn_pool
    patch_norm = getattr(model.patch_embed, "norm", None)
    early, patches = not is_absent(model.norm_pre), not is_absent(patch_norm)
    distilled = isinstance(model, VisionTransformerDistilled)
    norm: NormPlace = (
        "after_pool" if not is_absent(model.fc_norm) else "none" if is_absent(model.norm) else "before_pool"
    )
    pooling: Pooling = "token" if model.global_pool == "token" else "avg_all" if model.pool_include_prefix else "avg"
    if isinstance(model, ClassAndMeanViT):
        pooling = "token_and_avg"
    pooling = pooling if pool is None else "map"
    pos_embed: PosEmbed = "none" if model.pos_embed is None else "patches" if model.no_embed_class else "all"
    return ShapePlan(
        img_size=tuple(model.patch_embed.img_size),
        patch_size=embed.patch_size,
        in_chans=embed.in_chans,
        num_classes=model.head.out_features,
        embed_dim=model.embed_dim,
        blocks=tuple(block_plan(block) for block in blocks),
        attn_scale=float(first.attn.scale),
        class_token=model.cls_token is not None,
        dist_token=distilled,
        reg_tokens=model.num_reg_tokens if model.reg_token is not None else 0,
        pos_embed=pos_embed,
        pooling=pooling,
        norm_pre=early,
        norm=norm,
        norm_eps=epsilons([patch_norm, model.norm_pre], blocks, [model.norm, model.fc_norm]),
        qkv_bias=first.attn.qkv.bias is not None,
        proj_bias=first.attn.proj.bias is not None,
        patch_bias=embed.bias,
        layer_scale=isinstance(first.ls1, LayerScale),
        norm_type=norm_kind([first.norm1]),
        pre_dim=model.embed_dim if norm_kind([first.norm1]) == "rms" and (early or patches) else 0,
        patch_norm=patches,
        attn_pool=None if pool is None else pool_plan(pool, model.pool_include_prefix),
        position_bias=biased,
        block_kind=block_kind_of(model.blocks[0]),
        stem=embed.stem,
        double_norm=hasattr(first, "norm3"),
        **inner_options(blocks),
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
        new = (
            name.replace("patch_embed.proj.", "patch_embed.")
            .replace("fc_norm.", "norm.")
            .replace("patch_embed.norm", "patch_norm")
        )
        renamed[new.replace(".ls1.gamma", ".gamma1").replace(".ls2.gamma", ".gamma2")] = value
    return renamed


def to_timm(weights: Mapping[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Maps parameter names of a ``SlicedViT`` to timm's; the three weights of an attention become one.

    Args:
        weights: weights by name; those of any other network are returned as they are.
        wanted: timm's parameter names of the model that will take the weights.

    Raises:
        ModelError: the weights have a part that timm's model has no place for.
    """
    if not any(".attn.q." in name for name in weights):
        return dict(weights)
    if any(".attn.rope." in name for name in weights):
        raise ModelError(
            "These weights have no place in a timm model: their rotary positions are tables of one image size",
            fix="Load them with pocketvit.load, or as a whole model of the same architecture and size",
        )
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
    biases = [name for name in renamed if ".mlp.fc" in name and name.endswith(".bias")]
    for name in biases if any(".mlp.fc1.weight" in name for name in wanted) else ():
        if name not in wanted and renamed.pop(name).any():
            raise ModelError(f"The weight '{name}' has no place in this timm model", fix="Load it with pocketvit.load")
    return pool_to_timm(relative_to_timm(renamed, wanted), wanted)


_BACKBONE = "patch_embed.backbone."
_NO_WAY_BACK = {
    "embeds.proj.weight": "a timm model for images of any shape, since they are those of one size",
    "blocks.0.in_proj.weight": "timm's parallel blocks, since their parts are joined",
    "blocks.0.attns.0.norm.weight": "timm's parallel blocks, since their parts are joined",
}
"""Parameter names of timm models to which weights cannot go back, and why."""

_REFUSED_PARTS = {
    "DiffParallelScalingBlock": "differential attention",
    "DiffAttention": "differential attention",
}


def _refuse_unsupported(model: Any) -> None:
    """Raises ``ModelError`` with the first part of ``model`` that slicing does not support exactly."""
    kind = type(model).__name__
    if type(model) not in (VisionTransformer, VisionTransformerDistilled, ClassAndMeanViT, *VIEWS):
        windows = any("Window" in type(part).__name__ for part in model.modules())
        part = "window attention" if windows else f"the architecture {kind}"
        raise unsupported_part(part, "a plain timm VisionTransformer (vit_*, deit_*, deit3_*, DINOv2)")
    naflex = hasattr(model, "embeds")
    if naflex and (embedding := refused_embedding(model)):
        raise unsupported_part(embedding)
    model = seen_as_plain(model)
    hybrid = type(model.patch_embed) is HybridEmbed and not model.patch_embed.dynamic_img_pad
    if not (naflex or hybrid or type(model.patch_embed) is PatchEmbed):
        raise unsupported_part(_REFUSED_PARTS.get(type(model.patch_embed).__name__, "this patch embedding"))
    if not model.blocks:
        raise unsupported_part("no transformer block", "at least one")
    if isinstance(model, VisionTransformerDistilled) and not (model.reg_token is None and is_absent(model.fc_norm)):
        raise unsupported_part("a distillation token together with register tokens or a norm after pooling")
    if model.global_pool not in ("token", "avg", "map"):
        raise unsupported_part(f"'{model.global_pool}' pooling", "pooling by class token, by average or by attention")
    patch_norm = getattr(model.patch_embed, "norm", None)
    norms = [patch_norm, model.norm_pre, model.norm, model.fc_norm]
    if len({type(block) for block in model.blocks}) != 1:
        raise unsupported_part("blocks of several kinds")
    for block in model.blocks:
        if branches := refused_block(block):
            raise unsupported_part(branches)
        block = plain_block(block)
        _refuse_block(block)
        norms += block_norms(block).values()
    if model.attn_pool is not None:
        refuse_pool(model.attn_pool, plain_block(model.blocks[0]).mlp.act, not is_absent(model.fc_norm))
    norm_kind(norm for norm in norms if not is_absent(norm))
    if not (is_absent(patch_norm) or is_absent(model.norm_pre)):
        raise unsupported_part("norms of the patches and of the tokens")
    if not isinstance(model.head, nn.Linear):
        raise unsupported_part("a model without a linear classifier")


def _refuse_block(block: Any) -> None:
    if type(block) is not Block:
        raise unsupported_part(_REFUSED_PARTS.get(type(block).__name__, f"the block {type(block).__name__}"))
    if type(block.attn) is not Attention:
        part = type(block.attn).__name__
        raise unsupported_part(_REFUSED_PARTS.get(part, f"the attention {part}"))
    for scale in (block.ls1, block.ls2):
        if not is_absent(scale) and not isinstance(scale, LayerScale):
            raise unsupported_part(f"the residual scale {type(scale).__name__}")
