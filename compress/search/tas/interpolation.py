"""Channel-wise interpolation (CWI) of features to another number of channels."""

from __future__ import annotations

from functools import cache

import torch

from runtime import PlanError


def interpolate_channels(features: torch.Tensor, width: int, dim: int = -1) -> torch.Tensor:
    """Returns features of ``width`` channels: adaptive average pooling over channels.

    Of C channels, channel i of the result is the mean of the channels from ``floor(i * C / width)`` to
    ``ceil((i + 1) * C / width) - 1``. With ``width`` above C, channels are repeated or blended.

    Args:
        features: features of any shape.
        width: number of channels of the result, at least 1.
        dim: dimension of the channels.

    Raises:
        PlanError: ``width`` is not positive.

    Ref: Dong and Yang 2019, Network Pruning via Transformable Architecture Search, arXiv 1905.09717, section 3.1.
    """
    if features.shape[dim] == width:
        return features
    first, *others = _taps(features.shape[dim], width)
    result = _scaled(features.index_select(dim, first[0]), first[1], dim)
    for index, share in others:
        result = result + _scaled(features.index_select(dim, index), share, dim)
    return result


def interpolate_readers(weights: torch.Tensor, channels: int, dim: int = -1) -> torch.Tensor:
    """Applies the transpose of CWI to weights, so that they read ``channels`` channels.

    For features x of ``channels`` channels and weights W that read ``W.shape[dim]`` channels,
    ``W . interpolate_channels(x) = interpolate_readers(W) . x``. With few weights and many features, interpolating the
    weights is cheaper.

    Args:
        weights: weights of any shape.
        channels: number of channels of the features, at least 1.
        dim: dimension that reads the channels.

    Raises:
        PlanError: ``channels`` is not positive.
    """
    width = weights.shape[dim]
    if channels == width:
        return weights
    shape = list(weights.shape)
    shape[dim] = channels
    result = weights.new_zeros(shape)
    for index, share in _taps(channels, width):
        result = result.index_add(dim, index, _scaled(weights, share, dim))
    return result


@cache
def _taps(channels: int, width: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Returns pairs of source channels and their shares that sum up to the ``width`` channels."""
    if channels < 1 or width < 1:
        raise PlanError("Channels are interpolated from 1 or more to 1 or more", got=f"{channels} to {width}")
    starts = [i * channels // width for i in range(width)]
    ends = [-(-(i + 1) * channels // width) for i in range(width)]
    spans = list(zip(starts, ends, strict=True))
    return tuple(
        (
            torch.tensor([min(start + k, end - 1) for start, end in spans]),
            torch.tensor([(start + k < end) / (end - start) for start, end in spans], dtype=torch.float64),
        )
        for k in range(max(end - start for start, end in spans))
    )


def _scaled(features: torch.Tensor, share: torch.Tensor, dim: int) -> torch.Tensor:
    """Returns ``features`` times the share of each channel."""
    shape = [1] * features.ndim
    shape[dim] = -1
    return features * share.to(features.dtype).view(shape)
