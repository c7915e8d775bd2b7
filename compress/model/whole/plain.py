"""Gives modules of timm a forward pass that every converter knows and that takes each image by itself."""

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


def _attend_alone(block: Any, images: torch.Tensor) -> torch.Tensor:
    """Computes a ``SpatialTransformerBlock`` of CSATv2 ``(B, 1, H, W)`` for each image by itself.

    timm multiplies the queries and keys of all images of a batch with each other, so that an image's answer depends
    on the others. Of a single image the softmax has one entry, which is 1, and the values remain.
    """
    height, width = images.shape[2:]
    tokens = block.pos_embed(block.norm1(images.flatten(2).transpose(1, 2)), (height, width))
    images = images + _as_images(block.qkv(tokens)[..., 2:], height, width)
    tokens = block.mlp(block.norm2(images.flatten(2).transpose(1, 2)))
    return images + _as_images(tokens, height, width)


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


PLAIN: dict[str, Callable[..., torch.Tensor]] = {
    "timm.models.csatv2.SpatialTransformerBlock": _attend_alone,
    "timm.layers.cond_conv2d.CondConv2d": _mix_experts,
}
"""The forward pass that a module gets, by its class; it is called with the module and its arguments."""
