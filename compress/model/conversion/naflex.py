"""timm's Vision Transformer for images of any shape (NaFlexViT), seen as a plain one at a fixed size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

SIZE = "fixed_img_size"
"""Attribute of a model with the height and width that it was made for; without it the published size is taken."""

_EMBEDS = "embeds."


def at_size(model: nn.Module, size: Any) -> nn.Module:
    """Returns a model that notes the image size it was made for, since one for images of any shape keeps none.

    Args:
        model: any model; it is changed.
        size: height and width, or one number for both, pixels; None for the size that timm names.
    """
    if size is not None and hasattr(model, "embeds"):
        setattr(model, SIZE, size)
    return model


def image_size(model: Any) -> tuple[int, int]:
    """Returns the height and width of the images, pixels."""
    own = getattr(model, SIZE, None) or model.pretrained_cfg["input_size"][1:]
    height, width = own if isinstance(own, (tuple, list)) else (own, own)
    return int(height), int(width)


def naflex_view(model: Any) -> Any:
    """Returns the attributes of a plain Vision Transformer, with the model's values at its image size."""
    names = ("global_pool", "embed_dim", "norm_pre", "norm", "fc_norm", "head", "blocks", "attn_pool")
    embeds = model.embeds
    own: dict[str, Any] = {name: getattr(model, name) for name in (*names, "pool_include_prefix", "num_reg_tokens")}
    proj = SimpleNamespace(in_channels=embeds.in_chans, bias=embeds.proj.bias)
    return SimpleNamespace(
        patch_embed=SimpleNamespace(img_size=image_size(model), patch_size=embeds.patch_size, proj=proj),
        cls_token=embeds.cls_token,
        reg_token=embeds.reg_token,
        no_embed_class=True,
        pos_embed=None if embeds.pos_embed_type == "none" else embeds.pos_embed_type,
        **own,
    )


def refused_embedding(model: Any) -> str | None:
    """Returns the part of the embedding that cannot be computed exactly; None if there is none."""
    if model.rope is not None:
        return "rotary positions for images of any shape"
    if model.embeds.norm_input is not None or not isinstance(model.embeds.norm, nn.Identity):
        return "a norm in the patch embedding"
    return None


def naflex_weights(model: Any) -> dict[str, torch.Tensor]:
    """Returns the weights under the names of a plain model, with positions resampled to the grid of patches."""
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(_EMBEDS)}
    embeds, (height, width) = model.embeds, image_size(model)
    rows, columns = embeds.patch_size
    kernel = embeds.proj.weight.detach()
    if embeds.is_linear:
        shape = (len(kernel), rows, columns, -1) if embeds.channels_last else (len(kernel), -1, rows, columns)
        kernel = kernel.reshape(shape)
        kernel = kernel.permute(0, 3, 1, 2).contiguous() if embeds.channels_last else kernel
    weights["patch_embed.proj.weight"] = kernel
    if embeds.proj.bias is not None:
        weights["patch_embed.proj.bias"] = embeds.proj.bias.detach()
    for name in ("cls_token", "reg_token"):
        if getattr(embeds, name) is not None:
            weights[name] = getattr(embeds, name).detach()
    grid = (height // rows, width // columns)
    placed = kernel.new_zeros(1, grid[0] * grid[1], model.embed_dim)
    with torch.no_grad():
        if embeds.pos_embed_type == "learned":
            embeds._apply_learned_pos_embed(placed, grid_size=grid)
        elif embeds.pos_embed_type == "factorized":
            embeds._apply_factorized_pos_embed(placed, grid_size=grid)
    if embeds.pos_embed_type != "none":
        weights["pos_embed"] = placed
    return weights
