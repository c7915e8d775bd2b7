"""The error of every operator of a quantised ``.tflite`` file, measured against the float file of the same model."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from .kept_tensors import Computed
from .other_basis import Basis, Fit

IDENTICAL = "the values are identical"
ZERO = "the float file's values are all zero"
OTHER_QUANTITY = "it is computed from a tensor in another basis, and is another quantity"
TOO_FEW_IMAGES = "there are too few images to find its change of basis"
EXACT_INPUTS = "its inputs are exact"
UNKNOWN_INPUTS = "none of its inputs has a counterpart"
_UNKNOWN = (OTHER_QUANTITY, TOO_FEW_IMAGES)
UNLIKE = 10**-0.6
"""With more noise over signal, 6 dB, a tensor may be another quantity."""

_MOST_LOST_DB = 15.0
"""An operator on rotated channels that seems to lose more computes another quantity, such as their squares."""

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


def errors_in_order(computed: Sequence[Computed], fits: dict[str, Fit]) -> tuple[OperatorError, ...]:
    """Returns the errors in the order of the file."""
    done: dict[str, OperatorError] = {}
    for one in computed:
        fit = fits.get(one.name)
        if fit is None:
            continue
        inputs = [done[name] for name in one.inputs if name in done]
        sqnr, reason = decibels_of(fit.ratio), reason_of(fit.ratio)
        basis = fit.basis
        turned = basis == "same" and any(own.basis != "same" or own.reason in _UNKNOWN for own in inputs)
        least = min((own.sqnr_db for own in inputs if own.sqnr_db is not None), default=None)
        lost = None if least is None or sqnr is None else least - sqnr
        if one.op in MOVING and inputs and inputs[0].basis != "same":
            sqnr, reason, basis = inputs[0].sqnr_db, inputs[0].reason or reason, inputs[0].basis
        elif turned and (fit.ratio > UNLIKE or (lost or 0.0) > _MOST_LOST_DB):
            sqnr, reason = None, OTHER_QUANTITY
        elif not fit.determined:
            sqnr, reason = None, TOO_FEW_IMAGES
        known = [own for own in inputs if own.reason not in _UNKNOWN]
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


def errors_by_part(rows: Sequence[OperatorError]) -> tuple[PartError, ...]:
    """Returns the errors by part of the model, least median SQNR first."""
    groups: dict[tuple[str, str, str], list[OperatorError]] = defaultdict(list)
    for row in rows:
        if row.reason not in _UNKNOWN:
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


def decibels_of(ratio: float) -> float | None:
    """Returns the SQNR of a ratio of noise over signal, dB; None where it is 0 or infinite."""
    return None if ratio <= 0 or math.isinf(ratio) else -10 * math.log10(ratio)


def reason_of(ratio: float) -> str:
    """Returns why a ratio of noise over signal of 0 or infinity has no SQNR."""
    return ZERO if math.isinf(ratio) else IDENTICAL
