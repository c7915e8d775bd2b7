"""Statistics of a model's activations on real images, and the integer ranges chosen from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from export.graph.execute import run_graph
from export.graph.ir import Array, Graph, IntType, QParams
from runtime import DataError

SAMPLE = 1 << 14
"""Number of values kept of each tensor, to choose ranges by their error."""

_HEADROOM = 2.0
"""Factor of int16 ranges over the observed ones: there are bits enough, and nothing is clipped."""

_SHRINK = np.geomspace(1.0, 0.05, 41)


@dataclass(frozen=True)
class TensorStats:
    """Statistics of one tensor.

    Attributes:
        low: least value.
        high: greatest value.
        channels: greatest absolute value of each channel, the last dimension.
        mean: of each channel.
        sample: some of the values, float32.
    """

    low: float
    high: float
    channels: Array
    mean: Array
    sample: npt.NDArray[np.float32]


def check_calibration(images: npt.NDArray[np.float32] | None) -> None:
    """Checks that images can set ranges.

    Raises:
        DataError: there are fewer than two images, they are constant, or they are all the same.
    """
    if images is None or len(images) < 2:
        raise DataError("Calibration needs images", expected="at least 2", got=0 if images is None else len(images))
    if float(np.ptp(images)) == 0.0 or bool((images == images[:1]).all()):
        raise DataError("The calibration images are constant or all the same", fix="Calibrate on real images")


def observe(
    graph: Graph,
    images: npt.NDArray[np.float32],
    batch: int = 16,
    seed: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, TensorStats]:
    """Runs ``graph`` in float32 and returns the statistics of the image and of every computed tensor, by name.

    Args:
        graph: a float graph.
        images: preprocessed images ``(N, H, W, C)`` float32.
        batch: number of images computed at a time.
        seed: of the sampled values.
        done: called after every batch with the number of images done.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: dict[str, list[tuple[torch.Tensor, ...]]] = {}
    share = SAMPLE * batch // max(len(images), batch)

    def look(name: str, value: torch.Tensor) -> torch.Tensor:
        rows = value.reshape(-1, value.shape[-1])
        flat = rows.reshape(-1)
        picked = flat[torch.randint(len(flat), (max(share, 64),), generator=generator)]
        parts = (flat.min(), flat.max(), rows.abs().amax(0), rows.double().mean(0) * len(value), picked)
        seen.setdefault(name, []).append(parts)
        return value

    with torch.no_grad():
        for start in range(0, len(images), batch):
            run_graph(graph, torch.from_numpy(images[start : start + batch]), look)
            done(min(start + batch, len(images)))
    return {name: _stats(parts, len(images)) for name, parts in seen.items()}


def _stats(parts: list[tuple[torch.Tensor, ...]], count: int) -> TensorStats:
    lows, highs, channels, sums, samples = zip(*parts, strict=True)
    return TensorStats(
        low=min(float(low) for low in lows),
        high=max(float(high) for high in highs),
        channels=torch.stack(channels).amax(0).double().numpy(),
        mean=(torch.stack(sums).sum(0) / count).numpy(),
        sample=torch.cat(samples).float().numpy(),
    )


def activation_qparams(stats: TensorStats, symmetric: bool, ranges: str, dtype: IntType = "int8") -> QParams:
    """Returns the scale and zero point for a tensor.

    Args:
        stats: of the tensor.
        symmetric: whether the zero point is 0.
        ranges: ``minmax`` takes the whole observed range; ``mse`` the part of it with the least squared error;
            ``percentile`` clips one value in ten thousand at either end.
        dtype: ``int8``, or ``int16``, which is always symmetric.
    """
    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    if dtype == "int16":
        return QParams((_HEADROOM * max(-low, high, 1e-9) / 32767,), 0, "int16")
    if ranges == "percentile":
        some = np.quantile(stats.sample, [1e-4, 1 - 1e-4])
        low, high = min(float(some[0]), 0.0), max(float(some[1]), 0.0)
    if ranges != "mse":
        return int8_range(low, high, symmetric)
    values = np.concatenate([stats.sample, [stats.low, stats.high]]).astype(np.float64)
    return _least_error(values, low, high, symmetric)


def _least_error(values: Array, low: float, high: float, symmetric: bool) -> QParams:
    """Returns the grid between ``low`` and ``high`` of least squared error.

    Both ends are moved together first, and then each alone.
    """
    best, least, ends = int8_range(low, high, symmetric), np.inf, (1.0, 1.0)

    def attempt(one: float, other: float) -> None:
        nonlocal best, least, ends
        tried = int8_range(low * one, high * other, symmetric)
        error = float(np.square(tried.rounded(values) - values).mean())
        if error < least:
            best, least, ends = tried, error, (one, other)

    for shrink in _SHRINK:
        attempt(shrink, shrink)
    if not symmetric and low < 0 < high:
        for factor in _SHRINK:
            attempt(ends[0], factor)
        for factor in _SHRINK:
            attempt(factor, ends[1])
    return best


def int8_range(low: float, high: float, symmetric: bool = False) -> QParams:
    """Returns the int8 scale and zero point for ``low`` (at most 0) to ``high`` (at least 0), with 0 exact."""
    if symmetric:
        return QParams((max(-low, high, 1e-9) / 127,))
    scale = max(high - low, 1e-9) / 255
    return QParams((scale,), int(np.clip(round(-128 - low / scale), -128, 127)))


def weight_qparams(weight: Array, axis: int | None = 0) -> QParams:
    """Returns symmetric int8 scales of a weight: one for each index along ``axis``, or one for all."""
    others = tuple(i for i in range(weight.ndim) if axis is None or i != axis % weight.ndim)
    peaks = np.abs(weight).max(axis=others)
    return QParams(tuple(float(s) for s in np.atleast_1d(np.maximum(peaks, 1e-9) / 127)), 0, "int8", axis)
