"""Exact rewrites of functions of torch that a converter writes wrongly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

Rewrite = Callable[..., torch.Tensor]


class RewrittenNetwork(nn.Module):
    """A network whose forward pass computes the functions in ``REWRITES`` by others that converters know.

    Args:
        network: the network; it is not changed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to what the network answers."""
        with _Rewriting():
            answer: torch.Tensor = self.network(images)
        return answer


class _Rewriting(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return REWRITES.get(func, func)(*args, **(kwargs or {}))


def _pair(value: int | tuple[int, ...] | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def fold_by_sums(
    input: torch.Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> torch.Tensor:
    """Returns what ``torch.nn.functional.fold`` does, as a sum of images with zeros in between and around.

    Element ``(i, j)`` of every patch makes one image: its pixels lie ``stride`` apart, and it is shifted by
    ``(i, j) * dilation``. TFLite would compute the whole as a scatter, which its interpreter does not support.

    Args:
        input: patches ``(B, C * kh * kw, L)``.
        output_size: height and width.
        kernel_size: height and width of a patch.
        dilation: steps between the pixels of a patch.
        padding: rows and columns around the image that are dropped.
        stride: steps between patches.
    """
    (height, width), (kh, kw) = _pair(output_size), _pair(kernel_size)
    (dh, dw), (ph, pw), (sh, sw) = _pair(dilation), _pair(padding), _pair(stride)
    rows = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    columns = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    channels = input.shape[1] // (kh * kw)
    patches = input.reshape(input.shape[0], channels, kh * kw, rows * columns)
    total: torch.Tensor | None = None
    for number in range(kh * kw):
        top, left = (number // kw) * dh, (number % kw) * dw
        own = F.pad(patches[:, :, number].reshape(-1, rows, columns, 1), (0, sw - 1))
        own = F.pad(own.reshape(-1, rows, 1, columns * sw), (0, 0, 0, sh - 1))
        own = own.reshape(-1, channels, rows * sh, columns * sw)
        below, right = height + 2 * ph - top - rows * sh, width + 2 * pw - left - columns * sw
        own = F.pad(own, (left, right, top, below))  # a negative pad drops what is zero
        total = own if total is None else total + own
    assert total is not None
    return total[:, :, ph : ph + height, pw : pw + width]


def interpolate_by_products(
    input: torch.Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> torch.Tensor:
    """Returns what ``torch.nn.functional.interpolate`` does; antialiased, as two products with constant matrices.

    Args:
        input: images ``(B, C, H, W)``; others are left to torch.
        size: height and width of the new images.
        scale_factor: the same as factors; these are left to torch.
        mode: how pixels are mixed.
        align_corners: whether the corners' pixels keep their places; left to torch.
        recompute_scale_factor: as in torch.
        antialias: whether an image that becomes smaller is smoothed first.
    """
    if not antialias or size is None or align_corners or input.ndim != 4 or mode not in _TAPS:
        return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    rows, columns = (
        torch.tensor(resampling(int(old), new, mode), dtype=input.dtype)
        for old, new in zip(input.shape[2:], _pair(size), strict=True)
    )
    return torch.matmul(torch.matmul(rows, input), columns.T)


def _cubic(x: float) -> float:
    x = abs(x)
    return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


_TAPS: dict[str, tuple[int, Callable[[float], float]]] = {
    "bilinear": (1, lambda x: max(0.0, 1 - abs(x))),
    "bicubic": (2, _cubic),
}
"""How far a filter reaches, and its weight at a distance, both in pixels of the smaller image."""


def resampling(old: int, new: int, mode: str) -> list[list[float]]:
    """Returns the matrix ``(new, old)`` that resamples a row of pixels with antialiasing, as torch and Pillow do.

    Pixel ``i`` of the new row lies at ``(i + 1/2) * old / new``. The filter is as wide as a pixel of the smaller of
    both rows, and its weights at the pixels that it reaches are divided by their sum.

    Args:
        old: pixels of the row.
        new: pixels of the new row.
        mode: ``bilinear`` or ``bicubic``.
    """
    reach, weight = _TAPS[mode]
    step = old / new
    width = max(step, 1.0)
    matrix = []
    for number in range(new):
        center = (number + 0.5) * step
        first, end = max(0, int(center - reach * width + 0.5)), min(old, int(center + reach * width + 0.5))
        taps = [weight((j + 0.5 - center) / width) if first <= j < end else 0.0 for j in range(old)]
        matrix.append([tap / sum(taps) for tap in taps])
    return matrix


def convolve_by_a_product(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Returns what ``torch.nn.functional.conv1d`` does; kernels of one element, as a product of matrices.

    The converter of TFLite gives the product that it makes of them a wrong shape.

    Args:
        input: ``(B, C, L)`` or ``(C, L)``.
        weight: ``(out, in, k)``.
        bias: ``(out,)``.
        stride: along the length.
        padding: of the length; ``same`` and ``valid`` as in torch.
        dilation: along the length.
        groups: of the channels.
    """
    sides = (_pair(stride), (0, 0) if isinstance(padding, str) else _pair(padding))
    if weight.shape[2] > 1 or groups > 1 or sides != ((1, 1), (0, 0)):
        return F.conv1d(input, weight, bias, stride, padding, dilation, groups)
    out = torch.matmul(weight.squeeze(2), input)
    return out if bias is None else out + bias[:, None]


def one_hot_by_comparison(input: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """Returns what ``torch.nn.functional.one_hot`` does for a given number of classes, by a comparison.

    Args:
        input: integers of any shape, each at least 0 and less than ``num_classes``.
        num_classes: number of classes; the function itself counts them if it is negative.
    """
    if num_classes < 0:
        return F.one_hot(input, num_classes)
    return (input.unsqueeze(-1) == torch.arange(num_classes, device=input.device)).long()


def normalise_by_roots(
    input: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """Returns what ``torch.nn.functional.rms_norm`` does, which the exporter that traces to ONNX does not know.

    Args:
        input: values whose last dimensions have ``normalized_shape``.
        normalized_shape: the dimensions over which squares are averaged.
        weight: factor of each value, of that shape.
        eps: added to the mean; the step of the type after 1 where it is None.
    """
    over = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    input = input * torch.rsqrt(input.square().mean(over, keepdim=True) + eps)
    return input if weight is None else input * weight


def unfold_by_slices(input: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Returns what ``torch.Tensor.unfold`` does, as slices side by side; its converter to TFLite pads too many axes.

    Args:
        input: any tensor.
        dimension: the one that windows are taken of.
        size: of a window; windows become the last dimension.
        step: between windows.
    """
    dimension %= input.ndim
    count = (int(input.shape[dimension]) - size) // step + 1
    before, length = (slice(None),) * dimension, (count - 1) * step + 1
    return torch.stack([input[(*before, slice(first, first + length, step))] for first in range(size)], dim=-1)


def pool_by_equal_windows(input: torch.Tensor, output_size: Any, return_indices: bool = False) -> torch.Tensor:
    """Returns what ``torch.nn.functional.adaptive_max_pool2d`` does; where windows are equal, by ``max_pool2d``.

    Args:
        input: images ``(B, C, H, W)``.
        output_size: height and width of the answer, None for that of the images; others than divisors are left to
            torch.
        return_indices: left to torch.
    """
    sides = (int(input.shape[-2]), int(input.shape[-1]))
    asked = (output_size, output_size) if output_size is None or isinstance(output_size, int) else output_size
    sizes = [side if own is None else int(own) for own, side in zip(asked, sides, strict=True)]
    if return_indices or any(side % size for size, side in zip(sizes, sides, strict=True)):
        by_torch: Callable[..., torch.Tensor] = F.adaptive_max_pool2d
        return by_torch(input, output_size, return_indices)
    return F.max_pool2d(input, (sides[0] // sizes[0], sides[1] // sizes[1]))


REWRITES: dict[Any, Rewrite] = {
    F.adaptive_max_pool2d: pool_by_equal_windows,
    F.conv1d: convolve_by_a_product,
    F.fold: fold_by_sums,
    F.interpolate: interpolate_by_products,
    F.one_hot: one_hot_by_comparison,
    F.rms_norm: normalise_by_roots,
    torch.Tensor.unfold: unfold_by_slices,
}
"""What is computed instead, by function of torch."""
