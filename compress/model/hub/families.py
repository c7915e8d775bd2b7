"""The families of models that ``config.json`` names: one entry each, as data.

A new family is an entry of ``FAMILIES``: the fields of its config and their defaults, the options of the network that
computes the same, and the heads that a checkpoint may have. ``naming.py`` lists the names of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HeadForm = Literal["linear", "two_tokens", "class_and_mean", "relative"]


@dataclass(frozen=True)
class Head:
    """What reads the last tokens.

    Attributes:
        form: ``linear`` reads one vector; ``two_tokens`` has a head for the class token and one for the distillation
            token, and averages them; ``class_and_mean`` reads the class token and the mean of the patches side by side;
            ``relative`` reads one vector of a network with relative positions (BEiT).
        names: the weights' names before ``.weight`` and ``.bias``, and what they become.
        options: further options of the network.
        labels: whether the outputs are the labels of the config; else they are the values of a vector.
    """

    form: HeadForm
    names: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: bool = True


@dataclass(frozen=True)
class Family:
    """One ``model_type``.

    Attributes:
        base: name of the backbone inside a model with a head, such as ``vit``.
        defaults: values of the config's fields that it may leave out.
        options: options of the timm network that computes the same.
        heads: the heads that a checkpoint may have; the first that it has is taken.
        headless: what becomes of a backbone alone; its head is fresh.
        processor: image processor of models that bring none.
        inside: field of the config that holds the fields of the vision tower; empty for the config itself.
        network: class of timm: ``vit`` or ``eva``.
        any_size: whether the model resamples its positions to the size that its image processor makes.
        extra: names of weights that become other ones than in other families.
        unused: patterns of weights that its answers do not depend on.
    """

    base: str
    defaults: Mapping[str, Any]
    options: Mapping[str, Any]
    heads: tuple[Head, ...]
    headless: Head
    processor: str
    inside: str = ""
    network: Literal["vit", "eva"] = "vit"
    any_size: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


_SHAPE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu",
}
_VIT = {**_SHAPE, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "qkv_bias": True}
_DINOV2 = {
    **_SHAPE,
    "use_swiglu_ffn": False,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "layerscale_value": 1.0,
}
_DINOV3 = {
    **_SHAPE,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-5,
    "layerscale_value": 1.0,
    "rope_theta": 100.0,
    "use_gated_mlp": False,
    "num_register_tokens": 0,
}
_CLIP = {**_SHAPE, "intermediate_size": 3072, "layer_norm_eps": 1e-5, "patch_size": 32, "hidden_act": "quick_gelu"}

_SIGLIP = {**_SHAPE, "intermediate_size": 3072, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}
_BEIT = {**_SHAPE, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "layer_scale_init_value": 0.1}
_BEIT |= {"use_mean_pooling": True}

_CLASSIFIER = Head("linear", {"classifier": "head"})
_NO_HEAD = Head("linear", {})
_CLASS_AND_MEAN = Head("class_and_mean", {"classifier": "head"})

# a DeiT that was not distilled has the token too, which only takes part in the attention: a register
_AS_REGISTER = {"reg_tokens": 1}
_DEIT_TWO = Head("two_tokens", {"cls_classifier": "head", "distillation_classifier": "head_dist"})

_CLIP_MEAN = Head("linear", {"classifier": "head"}, {"global_pool": "avg", "final_norm": False, "fc_norm": False})
_PROJECTION = Head("linear", {"visual_projection": "head"}, labels=False)

_SIGLIP_MEAN = Head("linear", {"classifier": "head"}, {"global_pool": "avg", "fc_norm": False})
_RELATIVE = Head("relative", {"classifier": "head"})

_UNUSED = (r"pooler\..*", r"decoder\..*", r"(.*\.)?mask_token", r"(.*\.)?position_ids")
_UNUSED_CLIP = (*_UNUSED, r"text_model\..*", r"text_projection\..*", r"logit_scale")

_UNUSED_BEIT = (r"decoder\..*", r"(.*\.)?mask_token", r"(.*\.)?relative_position_index", r"lm_head\..*")
_UNUSED_SIGLIP = (*_UNUSED_CLIP, r"logit_bias")

_PLAIN_CLIP = Family(
    base="vision_model",
    defaults=_CLIP,
    options={"pre_norm": True},
    heads=(_PROJECTION,),
    headless=_NO_HEAD,
    processor="CLIPImageProcessor",
    unused=_UNUSED_CLIP,
)


def _beit(base: str) -> Family:
    return Family(
        base=base,
        defaults=_BEIT,
        options={},
        heads=(_RELATIVE,),
        headless=Head("relative", {}),
        processor="BeitImageProcessor",
        unused=_UNUSED_BEIT,
    )


def _siglip(inside: str) -> Family:
    return Family(
        base="vision_model",
        defaults=_SIGLIP,
        options={"class_token": False, "global_pool": "map"},
        heads=(_SIGLIP_MEAN,),
        headless=_NO_HEAD,
        processor="SiglipImageProcessor",
        inside=inside,
        unused=_UNUSED_SIGLIP,
    )


FAMILIES: Mapping[str, Family] = {
    "vit": Family("vit", _VIT, {}, (_CLASSIFIER,), _NO_HEAD, "ViTImageProcessor", unused=_UNUSED),
    "vit_mae": Family("vit", _VIT, {}, (_CLASSIFIER,), _NO_HEAD, "ViTImageProcessor", unused=_UNUSED),
    "deit": Family(
        base="deit",
        defaults=_VIT,
        options={},
        heads=(_DEIT_TWO, Head("linear", {"classifier": "head"}, _AS_REGISTER)),
        headless=Head("linear", {}, _AS_REGISTER),
        processor="DeiTImageProcessor",
        unused=_UNUSED,
    ),
    "dinov2": Family(
        base="dinov2",
        defaults=_DINOV2,
        options={},
        heads=(_CLASS_AND_MEAN,),
        headless=_NO_HEAD,
        processor="BitImageProcessor",
        any_size=True,
        unused=_UNUSED,
    ),
    "dinov2_with_registers": Family(
        base="dinov2_with_registers",
        defaults={**_DINOV2, "num_register_tokens": 4},
        options={"no_embed_class": True},
        heads=(_CLASS_AND_MEAN,),
        headless=_NO_HEAD,
        processor="BitImageProcessor",
        any_size=True,
        unused=_UNUSED,
    ),
    "beit": _beit("beit"),
    "data2vec-vision": _beit("data2vec_vision"),
    "siglip_vision_model": _siglip(""),
    "siglip": _siglip("vision_config"),
    "dinov3_vit": Family(
        base="model",
        defaults=_DINOV3,
        options={
            "attn_type": "rope",
            "use_abs_pos_emb": False,
            "use_rot_pos_emb": True,
            "rope_type": "dinov3",
            "rope_rotate_half": True,
            "swiglu_align_to": 1,
            "global_pool": "token",
        },
        heads=(),
        headless=_NO_HEAD,
        processor="DINOv3ViTImageProcessor",
        network="eva",
        any_size=True,
        unused=_UNUSED,
    ),
    "clip_vision_model": _PLAIN_CLIP,
    "clip": Family(
        base="vision_model",
        defaults=_CLIP,
        options={"pre_norm": True},
        heads=(_CLIP_MEAN, _PROJECTION),
        headless=_NO_HEAD,
        processor="CLIPImageProcessor",
        inside="vision_config",
        unused=_UNUSED_CLIP,
    ),
}
"""The supported values of ``model_type``; ``timm_wrapper`` names an architecture of timm instead."""

REFUSED: Mapping[str, str] = {
    "siglip2": "patches of free sizes (SigLIP 2)",
    "siglip2_vision_model": "patches of free sizes (SigLIP 2)",
    "dinov3_convnext": "convolutional stages (ConvNeXt)",
    "aimv2": "attention pooling (AIMv2)",
    "aimv2_vision_model": "attention pooling (AIMv2)",
    "swin": "window attention (Swin)",
    "swinv2": "window attention (Swin)",
    "vit_hybrid": "convolutional (hybrid) patch embedding",
    "vitdet": "window attention and relative position bias (ViTDet)",
    "pvt": "stages of several resolutions (PVT)",
    "segformer": "stages of several resolutions (SegFormer)",
    "mobilevit": "convolutional stages (MobileViT)",
    "levit": "convolutional stages (LeViT)",
    "convnext": "convolutional stages (ConvNeXt)",
    "convnextv2": "convolutional stages (ConvNeXt)",
    "resnet": "convolutional stages (ResNet)",
}
"""Values of ``model_type`` that are known and not supported, with the part that is missing."""

HIDDEN_ACTS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""timm's name of each ``hidden_act``."""
