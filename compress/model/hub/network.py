"""Builds the timm network that computes what a ``config.json`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from compress.model.timm_vit import ClassAndMeanViT
from runtime import MissingExtraError, ModelError, PlanError

from .families import FAMILIES, HIDDEN_ACTS, REFUSED, Family, Head
from .fields import Fields

try:
    from timm.layers import SwiGLUPacked
    from timm.models.beit import Beit
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None

_WIDEST, _DEEPEST, _LARGEST_SIDE = 16384, 256, 16384
_NETWORKS: Mapping[str, Any] = {
    "linear": VisionTransformer,
    "two_tokens": VisionTransformerDistilled,
    "class_and_mean": ClassAndMeanViT,
    "relative": Beit,
}


@dataclass(frozen=True)
class Shape:
    """The options of a network, by timm's names.

    Attributes:
        img_size: height and width of the input, pixels.
        channels: of the input.
        options: the other arguments of timm's class.
        eva: whether that class is ``Eva``.
    """

    img_size: tuple[int, int]
    channels: int
    options: Mapping[str, Any]
    eva: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch = self.options["patch_size"]
        return self.img_size[0] // patch[0], self.img_size[1] // patch[1]

    def build(self, head: Head, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
        """Returns the network with fresh weights.

        Args:
            head: what reads the last tokens.
            num_classes: number of outputs.
            arguments: options that replace those of the config, such as ``img_size``.

        Raises:
            ModelError: the options do not fit each other.
        """
        values = {"img_size": self.img_size, "in_chans": self.channels, **self.options, **head.options}
        values |= {"num_classes": num_classes, **arguments}
        if head.form == "relative":
            del values["act_layer"]
        try:
            network: nn.Module = (Eva if self.eva else _NETWORKS[head.form])(**values)
        except (AssertionError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            raise ModelError("The model cannot be made with these options", got=str(error)[:200]) from error
        return network


def find_family(config: Fields) -> tuple[Family, Fields]:
    """Returns the family of a model, and the fields that describe its vision tower.

    Raises:
        ModelError: the config names no supported family, or brings code or quantised weights.
    """
    if config.values.get("auto_map"):
        raise ModelError(
            f"{config.where} brings code of its own (auto_map), and code of a checkpoint is not run",
            expected="a model of a family of transformers itself",
        )
    if config.values.get("quantization_config"):
        raise ModelError(f"{config.where} is of quantised weights", expected="float weights")
    kind = config.text("model_type")
    if kind not in FAMILIES:
        supported = ", ".join([*FAMILIES, "timm_wrapper"])
        if kind in REFUSED:
            raise ModelError(f"This model uses {REFUSED[kind]}, which is not supported", expected=supported)
        named = f"names the model type '{kind[:60]}'" if kind else "names no model type (model_type)"
        raise ModelError(f"{config.where} {named}, which is not supported", expected=supported)
    family = FAMILIES[kind]
    tower = config.inner(family.inside) if family.inside else config
    return family, Fields(tower.where, tower.values, family.defaults)


def read_shape(family: Family, fields: Fields) -> Shape:
    """Returns the options of the network that computes what a config describes.

    Raises:
        ModelError: a field is out of range, or asks for a part that is not supported.
        PlanError: the image does not divide into patches.
    """
    width = fields.whole("hidden_size", 1, _WIDEST)
    heads = fields.whole("num_attention_heads", 1, _WIDEST)
    if width % heads:
        raise fields.wrong("num_attention_heads", f"a divisor of hidden_size ({width})", heads)
    image, patch = fields.sides("image_size", _LARGEST_SIDE), fields.sides("patch_size", _LARGEST_SIDE)
    if any(side % own for side, own in zip(image, patch, strict=True)):
        raise PlanError(f"The image of {fields.where} does not divide into patches", got=f"{image} by {patch}")
    act = fields.text("hidden_act")
    if act not in HIDDEN_ACTS:
        raise ModelError(
            f"This model uses the activation '{act[:60]}', which is not supported", expected=", ".join(HIDDEN_ACTS)
        )
    options: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": fields.whole("num_hidden_layers", 1, _DEEPEST),
        "num_heads": heads,
        "mlp_ratio": _mlp_ratio(fields, width),
        "norm_layer": partial(nn.LayerNorm, eps=fields.number("layer_norm_eps", 1e-20, 1)),
        "act_layer": HIDDEN_ACTS[act],
        **family.options,
    }
    if "qkv_bias" in family.defaults:
        options["qkv_bias"] = fields.flag("qkv_bias")
    if "layerscale_value" in family.defaults:
        options["init_values"] = fields.number("layerscale_value", 1e-9, 1e3)
    if "layer_scale_init_value" in family.defaults:
        options |= _relative_options(fields)
    if family.network == "eva":
        options = _for_eva(options, fields)
    elif "num_register_tokens" in family.defaults:
        options["reg_tokens"] = fields.whole("num_register_tokens", 1, 1024)
    if "use_swiglu_ffn" in family.defaults and fields.flag("use_swiglu_ffn"):
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": "silu"}
    return Shape(image, fields.whole("num_channels", 1, 3), options, family.network == "eva")


def _for_eva(options: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Returns the options of a network by the names of ``Eva``.

    Raises:
        ModelError: the network has no such activation.
    """
    own = {name: value for name, value in options.items() if name != "act_layer"}
    gated = fields.flag("use_gated_mlp")
    wanted = "silu" if gated else "gelu"
    if options["act_layer"] != wanted:
        raise ModelError(
            f"This model uses the activation '{options['act_layer']}', which is not supported here", expected=wanted
        )
    own |= {"swiglu_mlp": gated, "num_reg_tokens": fields.whole("num_register_tokens", 0, 1024)}
    return own | {"rope_temperature": fields.number("rope_theta", 1e-3, 1e9)}


def _relative_options(fields: Fields) -> dict[str, Any]:
    """Returns the options of a network with relative positions, whose activation is GELU."""
    if HIDDEN_ACTS[fields.text("hidden_act")] != "gelu":
        raise fields.wrong("hidden_act", "gelu", fields.get("hidden_act"))
    mean = fields.flag("use_mean_pooling")
    return {
        "act_layer": None,
        "qkv_bias": True,
        "init_values": fields.number("layer_scale_init_value", 0, 1e3) or None,
        "use_abs_pos_emb": fields.flag("use_absolute_position_embeddings"),
        "use_rel_pos_bias": fields.flag("use_relative_position_bias"),
        "use_shared_rel_pos_bias": fields.flag("use_shared_relative_position_bias"),
        "global_pool": "avg" if mean else "token",
        "use_fc_norm": mean,
    }


def _mlp_ratio(fields: Fields, width: int) -> float:
    if "use_swiglu_ffn" in fields.defaults and fields.flag("use_swiglu_ffn"):
        # two thirds of the hidden units, a multiple of 8; the network's first Linear makes them and their gates
        hidden = int(width * fields.number("mlp_ratio", 1e-3, 64))
        return (2 * ((int(hidden * 2 / 3) + 7) // 8 * 8) + 0.5) / width
    if "mlp_ratio" in fields.defaults:
        hidden = int(width * fields.number("mlp_ratio", 1e-3, 64))
    else:
        hidden = fields.whole("intermediate_size", 1, 64 * _WIDEST)
    return (hidden + 0.5) / width  # timm multiplies and rounds down
