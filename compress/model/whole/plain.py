"""Gives modules of timm a forward pass that every converter knows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.padding import pad_same
from torch import nn


def plain(network: nn.Module) -> nn.Module:
    """Returns the network in evaluation mode with plain operators; weights and their names stay.

    Attention becomes products and a softmax, and the modules named in ``PLAIN`` compute what they do by other means.
    """
    part: Any
    for part in network.modules():
        if hasattr(part, "fused_attn"):  # one operator of torch, which converters take apart into more than these
            part.fused_attn = False
        rewrite = PLAIN.get(f"{type(part).__module__}.{type(part).__name__}")
        if rewrite is not None:
            part.forward = partial(rewrite, part)
    return network.eval()


def _keep_values(block: Any, images: torch.Tensor) -> torch.Tensor:
    """Computes a ``SpatialTransformerBlock`` of CSATv2 ``(B, 1, H, W)`` without its products of queries and keys.

    timm multiplies queries ``(B, N)`` with the keys of all images of a batch, a shape that TFLite's converter refuses.
    The norm before it has one channel and leaves its bias alone, so that all images have the same values, and whatever
    their weights, which sum to 1, the values remain.
    """
    height, width = images.shape[2:]
    tokens = block.pos_embed(block.norm1(images.flatten(2).transpose(1, 2)), (height, width))
    images = images + _as_images(block.qkv(tokens)[..., 2:], height, width)
    mixed: torch.Tensor = block.mlp(block.norm2(images.flatten(2).transpose(1, 2)))
    return images + _as_images(mixed, height, width)


def _as_images(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], height, width)


def _mix_experts(layer: Any, images: torch.Tensor, routing: torch.Tensor) -> torch.Tensor:
    """Computes a ``CondConv2d`` of images ``(B, C, H, W)`` whose kernels ``routing`` ``(B, experts)`` mixes.

    timm makes the batch part of the channels, with as many groups as images, which fixes the number of images. Here
    kernels of one pixel are mixed and multiplied with the pixels; others answer each for itself, and these answers
    are mixed.
    """
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1 and layer.bias is None:
        kernels = (routing @ layer.weight).reshape(-1, layer.out_channels, layer.in_channels)
        return (kernels @ images.flatten(2)).reshape(-1, layer.out_channels, *images.shape[2:])
    padding = layer.padding
    if layer.dynamic_padding:
        images, padding = pad_same(images, layer.kernel_size, layer.stride, layer.dilation), (0, 0)
    answers = []
    for number in range(layer.num_experts):
        weight = layer.weight[number].reshape(layer.weight_shape)
        bias = None if layer.bias is None else layer.bias[number]
        own = F.conv2d(images, weight, bias, layer.stride, padding, layer.dilation, layer.groups)
        answers.append(own * routing[:, number, None, None, None])
    return torch.stack(answers).sum(0)


def _attend_linearly(layer: Any, tokens: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
    """Computes a ``LinearSelfAttention`` of MobileViTV2 ``(B, C, P, N)`` without a vector repeated to ``N`` tokens.

    The converter of TFLite drops the repetition and keeps the wrong shape for the product with it.
    """
    if before is not None:
        crossed: torch.Tensor = type(layer).forward(layer, tokens, before)
        return crossed
    query, key, value = layer.qkv_proj(tokens).split([1, layer.embed_dim, layer.embed_dim], dim=1)
    context = (key * query.softmax(dim=-1)).sum(dim=-1, keepdim=True)
    answer: torch.Tensor = layer.out_proj(F.relu(value) * context)
    return answer


def _attend_globally(layer: Any, images: torch.Tensor) -> torch.Tensor:
    """Computes a ``GlobalContext`` ``(B, C, H, W)`` with a sum in the place of a product of matrices.

    The converter of TFLite merges the product with the convolution after it, and gives it a wrong shape.
    """
    if layer.conv_attn is None:
        context = images.mean(dim=(2, 3), keepdim=True)
    else:
        weights = layer.conv_attn(images).flatten(1).softmax(dim=-1).reshape(-1, 1, *images.shape[2:])
        context = (images * weights).sum(dim=(2, 3), keepdim=True)
    if layer.mlp_scale is not None:
        images = images * layer.gate(layer.mlp_scale(context))
    return images if layer.mlp_add is None else images + layer.mlp_add(context)


PLAIN: dict[str, Callable[..., torch.Tensor]] = {
    "timm.layers.cond_conv2d.CondConv2d": _mix_experts,
    "timm.layers.global_context.GlobalContext": _attend_globally,
    "timm.models.csatv2.SpatialTransformerBlock": _keep_values,
    "timm.models.mobilevit.LinearSelfAttention": _attend_linearly,
}
"""The forward pass that a module gets, by its class; it is called with the module and its arguments."""
