"""Runs a quantised and a float file on the same images, and compares the tensors of the same names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime import ArtifactError, DataError, Progress, silent

from .comparison_images import images_for
from .kept_tensors import Computed, KeptTensors
from .operator_errors import UNLIKE, OperatorErrors, decibels_of, errors_by_part, errors_in_order, reason_of
from .other_basis import MOST_CHANNELS, BasisFinder, Fit, PairMoments

CONVERSIONS = (".integer", ".float", ".int8", ".int16")
"""Ends of the names of tensors that hold what the tensor without the end holds, in another type."""

_GROUP_BYTES = 2**29


@dataclass(frozen=True)
class _Pair:
    here: Computed
    there: Computed

    def values(
        self, mine: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Returns the values of both, the float file's first, as ``(rows, channels)``; copies of a row are averaged."""
        shape = self.here.shape
        if _are_copies(shape, self.there.shape):
            mine, shape = mine.reshape(shape).mean(axis=-2), self.there.shape
        return _by_channel(wanted, shape), _by_channel(mine, shape)


def compare_operators(
    path: Path, reference: Path, images: Path | None = None, *, threads: int = 1, progress: Progress = silent
) -> OperatorErrors:
    """Runs both files in LiteRT with all tensors kept, and compares the tensors of the same names.

    Where exact rewrites scaled or rotated the channels of a tensor before it was rounded, the change of basis is fitted
    to every second image and the error is measured on the others.

    Args:
        path: the quantised ``.tflite`` file.
        reference: a float ``.tflite`` file of the same model.
        images: an ``.npz`` file of images, as in ``images_for``; None takes those of the file's run, or random ones.
        threads: of the engine.
        progress: called after every image.

    Raises:
        ArtifactError: LiteRT cannot load or run a file, ``reference`` is not float, their inputs differ in shape, they
            have no tensor in common, or ``images`` cannot be read.
        DataError: there are fewer than two images, or they do not fit the files.
        UnsupportedTargetError: a file has several inputs or several graphs.
        MissingExtraError: ai-edge-litert is not installed.
    """
    here, there = KeptTensors(path, threads), KeptTensors(reference, threads)
    _check(here, there)
    chosen = images_for(path, images, here.input_shape)
    values = chosen.values
    _check_images(here, values)
    pairs = _pairs(here, there)
    if {pair.here.index for pair in pairs} <= {here.computed[0].index, here.output.index}:
        raise ArtifactError(
            f"{path.name} and {reference.name} have no tensor in common",
            expected=f"the names of {reference.name}, such as {_some(there.computed)}",
            got=_some(here.computed),
            fix="Export both files from the same model, by the same version",
        )
    end = _Ends()
    fits = _fits(here, there, pairs, values, end, progress)
    rows = errors_in_order(here.computed, fits)
    matched = {pair.there.name for pair in pairs}
    level = decibels_of(end.ratio)
    return OperatorErrors(
        file=path.name,
        against=reference.name,
        images=len(values),
        source=chosen.source,
        real=chosen.real,
        operators=rows,
        parts=errors_by_part(rows),
        matched=len(pairs),
        only_here=tuple(one.name for one in here.computed if one.name not in fits),
        only_there=tuple(one.name for one in there.computed if one.name not in matched),
        ambiguous=here.ambiguous + there.ambiguous,
        sqnr_db=level,
        reason=None if level is not None else reason_of(end.ratio),
        top1_agreement=end.agreement,
    )


def _check(here: KeptTensors, there: KeptTensors) -> None:
    if there.integers is not None:
        raise ArtifactError(
            f"{there.path.name}, which {here.path.name} is compared with, is not a float file",
            expected="a .tflite file in float32 or with float16 weights, as --formats fp32 writes it",
            got=f"integers in the tensor {there.integers}",
            fix="Name the quantised file first and the float file after --against",
        )
    if here.input_shape != there.input_shape:
        raise ArtifactError(
            f"{here.path.name} and {there.path.name} read images of other shapes",
            expected=there.input_shape,
            got=here.input_shape,
            fix="Export both files from the same model",
        )


def _check_images(here: KeptTensors, images: npt.NDArray[np.float32]) -> None:
    if len(images) < 2:
        raise DataError("Errors of operators need images", expected="at least 2", got=len(images))
    if images.shape[1:] != here.input_shape[1:]:
        raise DataError(
            f"The images do not fit {here.path.name}", expected=f"(N, *{here.input_shape[1:]})", got=images.shape
        )


def _pairs(here: KeptTensors, there: KeptTensors) -> list[_Pair]:
    """Returns the tensors that hold the same quantity, by their names."""
    others = {one.name: one for one in there.computed}
    # the image and the answers are the same quantities under whatever names the writers gave them
    ends = {here.input_name: there.input_name, here.output.name: there.output.name}
    pairs = []
    for one in here.computed:
        name = ends.get(one.name, one.name)
        for end in CONVERSIONS:
            name = name if name in others else name.removesuffix(end)
        other = others.get(name)
        if other is not None and (
            _squeezed(one.shape) == _squeezed(other.shape) or _are_copies(one.shape, other.shape)
        ):
            pairs.append(_Pair(one, other))
    return pairs


def _are_copies(here: tuple[int, ...], there: tuple[int, ...]) -> bool:
    """Returns whether a tensor ``here`` holds several copies of the one row that it has ``there``."""
    return len(here) > 1 and _squeezed(there) == _squeezed((*here[:-2], here[-1]))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _channels(one: Computed) -> int:
    """Returns the number of channels, those of all heads for a tensor ``(…, heads, tokens, channels)``."""
    return math.prod((*one.shape[-3:-2], *one.shape[-1:]))


def _by_channel(value: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Returns the values of a tensor as ``(rows, channels)``; ``shape`` is that of the quantised file."""
    value = value.reshape(shape)
    if len(shape) < 3:
        return value.reshape(-1, *shape[-1:] or (1,))
    return np.moveaxis(value, -3, -2).reshape(-1, shape[-3] * shape[-1])


class _Ends:
    """The outputs of both files, compared."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self._same = self._count = 0

    def add(self, mine: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], images: int) -> None:
        rows, others = (value.reshape(len(value), -1)[:images] for value in (mine, wanted))
        self.signal += float(np.square(others).sum())
        self.noise += float(np.square(rows - others).sum())
        if rows.shape[1] > 1:
            self._count += images
            self._same += int((rows.argmax(axis=1) == others.argmax(axis=1)).sum())

    @property
    def ratio(self) -> float:
        """Noise over signal."""
        return (self.noise / self.signal if self.signal else math.inf) if self.noise else 0.0

    @property
    def agreement(self) -> float | None:
        return self._same / self._count if self._count else None


def _fits(
    here: KeptTensors,
    there: KeptTensors,
    pairs: Sequence[_Pair],
    images: npt.NDArray[np.float32],
    end: _Ends,
    progress: Progress,
) -> dict[str, Fit]:
    """Returns the error of every pair by the name in the quantised file; further runs look for matrices."""
    finder = BasisFinder()
    sums = _moments(here, there, pairs, images, False, end, progress)
    fits = {name: finder.fit(own) for name, own in sums.items()}
    unlike = [
        pair
        for pair in pairs
        if fits[pair.here.name].basis == "same"
        and fits[pair.here.name].ratio > UNLIKE
        and _channels(pair.here) <= MOST_CHANNELS
    ]
    for group in _in_groups(unlike):
        sums = _moments(here, there, group, images, True, None, progress)
        fits |= {name: finder.fit(own) for name, own in sums.items()}
    return fits


def _in_groups(pairs: Sequence[_Pair]) -> list[list[_Pair]]:
    """Returns the pairs in groups whose sums of products fit the memory together."""
    groups: list[list[_Pair]] = []
    taken = math.inf
    for pair in pairs:
        own = 16 * _channels(pair.here) ** 2
        if taken + own > _GROUP_BYTES:
            groups.append([])
            taken = 0
        groups[-1].append(pair)
        taken += own
    return groups


def _moments(
    here: KeptTensors,
    there: KeptTensors,
    pairs: Sequence[_Pair],
    images: npt.NDArray[np.float32],
    crossed: bool,
    end: _Ends | None,
    progress: Progress,
) -> dict[str, PairMoments]:
    """Runs both files on all images and returns the sums of every pair, by the name in the quantised file."""
    sums = {pair.here.name: PairMoments.empty(_channels(pair.here), crossed) for pair in pairs}
    size, stage = here.input_shape[0], "rotations" if crossed else "operators"
    for number, start in enumerate(range(0, len(images), size)):
        batch = np.resize(images[start : start + size], here.input_shape)
        mine, wanted = here.run(batch), there.run(batch)
        for pair in pairs:
            own = sums[pair.here.name]
            own.add(number % 2, *pair.values(mine(pair.here), wanted(pair.there)))
        if end is not None:
            end.add(mine(here.output), wanted(there.output), min(size, len(images) - start))
        progress(stage, min(start + size, len(images)), len(images))
    return sums


def _some(computed: Sequence[Computed]) -> str:
    names = [one.name for one in computed if one.inputs]
    return ", ".join(names[:3]) or "no computed tensor"
