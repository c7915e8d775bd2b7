"""The error of every operator of a quantised ``.tflite`` file, measured against the float file of the same model."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from runtime import ArtifactError, DataError, Progress, silent

from .comparison_images import images_for
from .kept_tensors import Computed, KeptTensors
from .other_basis import MOST_CHANNELS, Basis, BasisFinder, Fit, PairMoments

CONVERSIONS = (".integer", ".float")
"""Ends of the names of tensors that hold what the tensor without the end holds, in the other type."""

IDENTICAL = "the values are identical"
ZERO = "the float file's values are all zero"
OTHER_QUANTITY = "it is computed from a tensor in another basis, and is another quantity"
EXACT_INPUTS = "its inputs are exact"
UNKNOWN_INPUTS = "none of its inputs has a counterpart"
_UNLIKE = 10**-0.6
"""With more noise over signal, 6 dB, a tensor may be another quantity."""

_GROUP_BYTES = 2**29

MOVING = ("RESHAPE", "TRANSPOSE")
"""Operators that move values: what they move stays in its basis."""

_NUMBER = re.compile(r"(?<![A-Za-z])\d+")
"""A number that counts, as in ``blocks.3``, and not one that is part of a word, as in ``fc1``."""


@dataclass(frozen=True)
class OperatorError:
    """The error of one operator's output.

    Attributes:
        op: type of the operator; ``INPUT`` stands for the image itself.
        name: of the tensor that it computes.
        dtype: numpy's name of the tensor's type.
        sqnr_db: signal to quantisation noise of the tensor, dB; None with a reason.
        reason: why ``sqnr_db`` is None.
        before_db: the least SQNR among the computed inputs of the operator, dB; None with a reason.
        before_reason: why ``before_db`` is None.
        lost_db: ``before_db`` minus ``sqnr_db``: what the operator loses, dB, negative where it attenuates errors; None
            where one of the two is.
        basis: ``same``, or how the file holds the quantity otherwise: with ``scaled`` channels, ``rotated``, or
            ``mapped`` by an invertible matrix.
    """

    op: str
    name: str
    dtype: str
    sqnr_db: float | None
    reason: str | None
    before_db: float | None
    before_reason: str | None
    lost_db: float | None
    basis: Basis


@dataclass(frozen=True)
class PartError:
    """The errors of the operators whose tensors have the same name in every block.

    Attributes:
        part: the name, with ``*`` for the number of the block.
        op: type of the operators.
        dtype: type of the tensors.
        count: number of operators.
        least_db: least SQNR, dB; None if all are identical.
        median_db: median SQNR, dB; None if most are identical.
        lost_db: median of what the operators lose, dB; None where it is not known of any.
    """

    part: str
    op: str
    dtype: str
    count: int
    least_db: float | None
    median_db: float | None
    lost_db: float | None


@dataclass(frozen=True)
class OperatorErrors:
    """A quantised file beside the float file of the same model.

    Attributes:
        file: name of the quantised file.
        against: name of the float file.
        images: number of images that both ran on.
        source: where the images come from.
        real: whether they are pictures, and not random numbers.
        operators: in the order of the file.
        parts: least median SQNR first.
        matched: number of tensors with a counterpart.
        only_here: names of tensors of the quantised file without a counterpart.
        only_there: names of tensors of the float file without a counterpart.
        ambiguous: number of tensors of either file that share their name with another.
        sqnr_db: of the outputs, dB; None with a reason.
        reason: why ``sqnr_db`` is None.
        top1_agreement: share of images with the same greatest output, 0..1; None for an output of one value.
    """

    file: str
    against: str
    images: int
    source: str
    real: bool
    operators: tuple[OperatorError, ...]
    parts: tuple[PartError, ...]
    matched: int
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]
    ambiguous: int
    sqnr_db: float | None
    reason: str | None
    top1_agreement: float | None


@dataclass(frozen=True)
class _Pair:
    here: Computed
    there: Computed


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
    rows = _rows(here.computed, fits)
    matched = {pair.there.name for pair in pairs}
    level = _decibels(end.ratio)
    return OperatorErrors(
        file=path.name,
        against=reference.name,
        images=len(values),
        source=chosen.source,
        real=chosen.real,
        operators=rows,
        parts=_parts(rows),
        matched=len(pairs),
        only_here=tuple(one.name for one in here.computed if one.name not in fits),
        only_there=tuple(one.name for one in there.computed if one.name not in matched),
        ambiguous=here.ambiguous + there.ambiguous,
        sqnr_db=level,
        reason=None if level is not None else _why_none(end.ratio),
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
        if other is not None and _squeezed(one.shape) == _squeezed(other.shape):
            pairs.append(_Pair(one, other))
    return pairs


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
        and fits[pair.here.name].ratio > _UNLIKE
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
            x, y = (_by_channel(value, pair.here.shape) for value in (wanted(pair.there), mine(pair.here)))
            own.add(number % 2, x, y)
        if end is not None:
            end.add(mine(here.output), wanted(there.output), min(size, len(images) - start))
        progress(stage, min(start + size, len(images)), len(images))
    return sums


def _rows(computed: Sequence[Computed], fits: dict[str, Fit]) -> tuple[OperatorError, ...]:
    """Returns the errors in the order of the file."""
    done: dict[str, OperatorError] = {}
    for one in computed:
        fit = fits.get(one.name)
        if fit is None:
            continue
        inputs = [done[name] for name in one.inputs if name in done]
        sqnr, reason = _decibels(fit.ratio), _why_none(fit.ratio)
        basis = fit.basis
        unlike = basis == "same" and fit.ratio > _UNLIKE
        if one.op in MOVING and inputs and inputs[0].basis != "same":
            sqnr, reason, basis = inputs[0].sqnr_db, inputs[0].reason or reason, inputs[0].basis
        elif unlike and any(own.basis != "same" or own.reason == OTHER_QUANTITY for own in inputs):
            sqnr, reason = None, OTHER_QUANTITY
        known = [own for own in inputs if own.reason != OTHER_QUANTITY]
        errors = [own.sqnr_db for own in known if own.sqnr_db is not None]
        before = min(errors) if errors else None
        before_reason = None if errors else EXACT_INPUTS if known or not one.inputs else UNKNOWN_INPUTS
        done[one.name] = OperatorError(
            op=one.op,
            name=one.name,
            dtype=one.dtype,
            sqnr_db=sqnr,
            reason=None if sqnr is not None else reason,
            before_db=before,
            before_reason=before_reason,
            lost_db=None if before is None or sqnr is None else before - sqnr,
            basis=basis,
        )
    return tuple(done.values())


def _parts(rows: Sequence[OperatorError]) -> tuple[PartError, ...]:
    """Returns the errors by part of the model, least median SQNR first."""
    groups: dict[tuple[str, str, str], list[OperatorError]] = defaultdict(list)
    for row in rows:
        if row.reason != OTHER_QUANTITY:
            groups[_NUMBER.sub("*", row.name), row.op, row.dtype].append(row)
    parts = []
    for (part, op, dtype), own in groups.items():
        found = [math.inf if row.sqnr_db is None else row.sqnr_db for row in own]
        lost = [row.lost_db for row in own if row.lost_db is not None]
        middle, least = median(found), min(found)
        parts.append(
            PartError(
                part,
                op,
                dtype,
                len(own),
                None if math.isinf(least) else least,
                None if math.isinf(middle) else middle,
                median(lost) if lost else None,
            )
        )
    return tuple(sorted(parts, key=_least_first))


def _least_first(part: PartError) -> float:
    return math.inf if part.median_db is None else part.median_db


def by_error(rows: Sequence[OperatorError], key: Callable[[OperatorError], float | None]) -> list[OperatorError]:
    """Returns rows sorted by a figure, smallest first and those without it last."""
    return sorted(rows, key=lambda row: math.inf if (value := key(row)) is None else value)


def _decibels(ratio: float) -> float | None:
    return None if ratio <= 0 or math.isinf(ratio) else -10 * math.log10(ratio)


def _why_none(ratio: float) -> str:
    return ZERO if math.isinf(ratio) else IDENTICAL


def _some(computed: Sequence[Computed]) -> str:
    names = [one.name for one in computed if one.inputs]
    return ", ".join(names[:3]) or "no computed tensor"
