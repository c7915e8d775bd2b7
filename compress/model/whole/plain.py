"""Gives modules of timm a forward pass that every converter knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.padding import pad_same
from torch import nn
from torch.overrides import TorchFunctionMode


def plain_network(network: nn.Module) -> nn.Module:
    """Returns the network in evaluation mode with plain operators; weights and their names stay.

    Attention becomes products and a softmax, standardised kernels are computed once, and the modules named in ``PLAIN``
    compute what they do by other means.
    """
    part: Any
    for part in network.modules():
        if hasattr(part, "fused_attn"):  # one operator of torch, which converters take apart into more than these
            part.fused_attn = False
        kind = f"{type(part).__module__}.{type(part).__name__}"
        if kind in PLAIN:
            part.forward = partial(PLAIN[kind], part)
        if kind.startswith(_STANDARDISED):
            part.register_buffer("standardised", _standardised(part), persistent=False)
        if isinstance(part, nn.Sequential):
            children: list[Any] = list(part)
            for pad, pool in pairwise(children):
                if _is_padded_pool(pad, pool):
                    pool.forward = partial(_pool_with_zeros, pool, pad.padding[0])
                    pad.forward = _unchanged
    return network.eval()


def _is_padded_pool(pad: Any, pool: Any) -> bool:
    """Returns whether equal rows and columns of zeros are put around images whose maxima are pooled next."""
    both = isinstance(pad, nn.ConstantPad2d) and isinstance(pool, nn.MaxPool2d)
    if not both:
        return False
    left, right, top, bottom = pad.padding
    plain = pool.padding == 0 and pool.dilation == 1 and not pool.ceil_mode and isinstance(pool.kernel_size, int)
    return plain and pad.value == 0 and 0 < left == right == top == bottom <= pool.kernel_size // 2


def _unchanged(images: torch.Tensor) -> torch.Tensor:
    return images


def _pool_with_zeros(pool: Any, around: int, images: torch.Tensor) -> torch.Tensor:
    """Returns the maxima of images ``(B, C, H, W)`` with ``around`` rows and columns of zeros on each side.

    ONNX Runtime merges the zeros with the pooling and takes them for minus infinity. Here they are minus infinity, and
    the maxima of windows that reach over the edge are raised to 0.
    """
    step = int(pool.stride)
    maxima = F.max_pool2d(images, pool.kernel_size, step, around)
    sides = ((int(length), int(windows)) for length, windows in zip(images.shape[2:], maxima.shape[2:], strict=True))
    rows, columns = (
        [number * step < around or number * step - around + pool.kernel_size > length for number in range(windows)]
        for length, windows in sides
    )
    edge = torch.tensor([[float(row or column) for column in columns] for row in rows])
    return maxima + edge * F.relu(-maxima)


def _standardised(layer: Any) -> torch.Tensor:
    """Returns the kernels ``(out, in, h, w)`` of ``timm.layers.std_conv``: each of mean 0, variance 1, and its gain."""
    gain = (layer.gain * layer.scale).flatten() if hasattr(layer, "gain") else None
    rows = layer.weight.reshape(1, layer.out_channels, -1)
    return F.batch_norm(rows, None, None, gain, training=True, eps=layer.eps).reshape_as(layer.weight).detach()


def _convolve(layer: Any, images: torch.Tensor) -> torch.Tensor:
    """Convolves images ``(B, C, H, W)`` with standardised kernels, which timm would compute anew for each batch."""
    if getattr(layer, "same_pad", False):
        images = pad_same(images, layer.kernel_size, layer.stride, layer.dilation)
    return F.conv2d(images, layer.standardised, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


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
        mixed: torch.Tensor = kernels @ images.flatten(2)
        return mixed.reshape(-1, layer.out_channels, *images.shape[2:])
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


class _Unrepeated(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if func in (torch.Tensor.expand, torch.Tensor.expand_as) else func(*args, **(kwargs or {}))


def _without_repeats(layer: Any, *args: torch.Tensor) -> torch.Tensor:
    """Computes a module that repeats a tensor to the shape of another, only to combine both, without the repetition.

    The converter of TFLite drops the repetition and keeps a wrong shape for the product or sum.
    """
    with _Unrepeated():
        answer: torch.Tensor = type(layer).forward(layer, *args)
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


_STANDARDISED = "timm.layers.std_conv."
PLAIN: dict[str, Callable[..., torch.Tensor]] = {
    "timm.layers.bottleneck_attn.PosEmbedRel": _without_repeats,
    "timm.layers.cond_conv2d.CondConv2d": _mix_experts,
    "timm.layers.eca.CecaModule": _without_repeats,
    "timm.layers.eca.EcaModule": _without_repeats,
    "timm.layers.filter_response_norm.FilterResponseNormAct2d": _without_repeats,
    "timm.layers.filter_response_norm.FilterResponseNormTlu2d": _without_repeats,
    "timm.layers.global_context.GlobalContext": _attend_globally,
    "timm.layers.halo_attn.PosEmbedRel": _without_repeats,
    f"{_STANDARDISED}ScaledStdConv2d": _convolve,
    f"{_STANDARDISED}ScaledStdConv2dSame": _convolve,
    f"{_STANDARDISED}StdConv2d": _convolve,
    f"{_STANDARDISED}StdConv2dSame": _convolve,
    "timm.models.csatv2.SpatialTransformerBlock": _keep_values,
    "timm.models.mobilevit.LinearSelfAttention": _without_repeats,
}
"""The forward pass that a module gets, by its class; it is called with the module and its arguments."""
