"""Finds the change of basis between two tensors that hold the same quantity in other channels.

Exact rewrites before rounding scale channels, rotate them, or take them through an invertible matrix, as queries
against keys. The same quantity then stands in a quantised file as ``x @ map``, where ``x`` is the float file's tensor
and ``map`` a diagonal, an orthogonal or any matrix. The map is fitted to every second image, and the error is measured
on the others, so that a fit cannot hide errors of rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Basis = Literal["same", "scaled", "rotated", "mapped"]

MOST_CHANNELS = 1024
"""Tensors with more channels are not tried for a matrix: hidden units of an MLP cannot be rotated exactly."""

_GAIN = 10**-0.6
"""A change of basis must bring the noise down to this share, by 6 dB; values that are clipped explain less."""

_ALIKE = 1e-3
"""A tensor with less noise over signal, 30 dB, is taken as it stands."""

_MAPPED_GAIN = 10**-0.3
"""A matrix that is no rotation must explain 3 dB more than any simpler change."""

_FLOOR = 1e-6
"""The least noise over signal that is measured behind a matrix, 60 dB: the sums are float32."""

_DAMPING = 1e-6

_ROWS_PER_CHANNEL = 2

_REMEMBERED = 4


@dataclass
class PairMoments:
    """Sums over the values of a float tensor ``x`` and of its counterpart ``y``, both ``(rows, channels)``.

    Attributes:
        signal: sum of ``x²`` for each channel and half of the images, ``(2, channels)``.
        other: sum of ``y²``, likewise.
        product: sum of ``x * y``, likewise.
        noise: sum of ``(x - y)²`` over everything, for each half.
        rows: number of rows of each half.
        cross: sum of ``x.T @ y`` for each half, ``(2, channels, channels)``; None where it is not collected.
        gram: sum of ``x.T @ x``, likewise.
    """

    signal: Array
    other: Array
    product: Array
    noise: Array = field(default_factory=lambda: np.zeros(2))
    rows: Array = field(default_factory=lambda: np.zeros(2))
    cross: Array | None = None
    gram: Array | None = None

    @classmethod
    def empty(cls, channels: int, crossed: bool) -> PairMoments:
        """Returns sums of nothing; ``crossed`` collects ``cross`` and ``gram`` too."""
        cross, gram = (np.zeros((2, channels, channels), np.float32) if crossed else None for _ in range(2))
        signal, other, product = (np.zeros((2, channels)) for _ in range(3))
        return cls(signal, other, product, cross=cross, gram=gram)

    def add(self, half: int, x: Array, y: Array) -> None:
        """Adds the values of one image to a half, 0 or 1."""
        self.rows[half] += len(x)
        self.signal[half] += np.square(x).sum(0)
        self.other[half] += np.square(y).sum(0)
        self.product[half] += (x * y).sum(0)
        self.noise[half] += np.square(x - y).sum()
        if self.cross is not None and self.gram is not None:
            narrow = x.astype(np.float32)
            self.cross[half] += narrow.T @ y.astype(np.float32)
            self.gram[half] += narrow.T @ narrow


@dataclass(frozen=True)
class Fit:
    """The error of a tensor in its basis.

    Attributes:
        basis: ``same``, ``scaled`` channels, ``rotated``, or ``mapped`` by any matrix.
        ratio: noise over signal, both as sums of squares; 0 without noise, infinite where only noise is.
        determined: whether there were rows enough to fit the matrix, two for each channel.
    """

    basis: Basis
    ratio: float
    determined: bool = True


class BasisFinder:
    """Fits changes of basis, and remembers rotations: one matrix rotates many tensors of a file."""

    def __init__(self) -> None:
        self._rotations: dict[int, list[Array]] = {}

    def fit(self, sums: PairMoments) -> Fit:
        """Returns the error of a tensor, in another basis where that explains the difference."""
        same = Fit("same", _ratio(float(sums.noise.sum()), float(sums.signal.sum())))
        if same.ratio <= _ALIKE or not sums.signal.sum(1).all() or sums.signal.shape[1] < 2:
            return same
        enough = bool(sums.rows[0] >= _ROWS_PER_CHANNEL * sums.signal.shape[1])
        best = Fit("scaled", _scaled_ratio(sums))
        if sums.cross is not None and sums.gram is not None:
            ratio, known = self._rotated_ratio(sums.cross, sums, enough)
            if ratio <= best.ratio:
                best = Fit("rotated", ratio, enough or known)
            mapped = _mapped_ratio(sums.cross, sums.gram, sums)
            if mapped <= best.ratio * _MAPPED_GAIN:
                best = Fit("mapped", mapped, enough)
        noise = float(sums.noise[1]) / float(sums.signal[1].sum())
        return best if best.ratio <= noise * _GAIN else same

    def _rotated_ratio(self, crosses: Array, sums: PairMoments, enough: bool) -> tuple[float, bool]:
        """Returns noise over signal behind the best rotation, and whether that was found at another tensor."""
        known = self._rotations.setdefault(crosses.shape[-1], [])
        left, _, right = np.linalg.svd(crosses[0].astype(np.float64))
        tried = [left @ right, *known]
        total, cross = float(sums.signal[1].sum()), crosses[1].astype(np.float64)
        # |x R - y|² = |x|² + |y|² - 2 tr(Rᵀ xᵀ y), and R keeps the length of x
        power = total + float(sums.other[1].sum())
        ratios = [max(_FLOOR, (power - 2 * float((rotation * cross).sum())) / total) for rotation in tried]
        best = int(np.argmin(ratios))
        if best == 0 and enough and ratios[0] <= float(sums.noise[1]) / total * _GAIN:
            known[:] = [tried[0], *known][:_REMEMBERED]
        return ratios[best], best > 0


def _scaled_ratio(sums: PairMoments) -> float:
    """Returns noise over signal on the second half, each channel divided by its scale on the first half."""
    signal = sums.signal[1]
    scales = sums.product[0] / np.maximum(sums.signal[0], 1e-30)
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = signal + sums.other[1] / np.square(scales) - 2 * sums.product[1] / scales
    # a channel that was rounded away has no scale, and all of it is lost
    noise = np.where(np.isfinite(noise), np.maximum(noise, 0), signal)
    return _ratio(float(noise.sum()), float(signal.sum()))


def _mapped_ratio(crosses: Array, grams: Array, sums: PairMoments) -> float:
    """Returns noise over signal on the second half, both as the quantised file holds them.

    The fit has a number for every pair of channels, so with few images its own error hides some of the accuracy.
    """
    gram, cross = grams[0].astype(np.float64), crosses[0].astype(np.float64)
    damping = _DAMPING * float(np.trace(gram)) / len(gram)
    fitted = np.linalg.solve(gram + damping * np.eye(len(gram)), cross)
    signal = float((fitted * (grams[1].astype(np.float64) @ fitted)).sum())
    noise = signal + float(sums.other[1].sum()) - 2 * float((fitted * crosses[1]).sum())
    return max(_FLOOR, noise / signal) if signal > 0 else float("inf")


def _ratio(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    return noise / signal if signal > 0 else float("inf")
