"""The limits that a file is held to, and what its answers on some images say about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime import Parity, ParityError

from .looks import critical_value
from .paired import loss_bounds, share_bounds

MAX_DROP = 0.5
"""Most points of top-1 that an integer file may lose, unless ``--max-drop`` gives another limit."""

MIN_AGREEMENT = 0.90
"""Least share of images with the float model's top-1, for integer files, unless ``--min-agreement`` is given."""

MIN_SQNR_DB = 12.0
"""Least signal to quantisation noise of an integer file's logits, dB, unless ``--min-agreement`` is given."""

MIN_COSINE = 0.98
"""Least mean cosine of an integer file's vectors with the float model's, unless ``--min-cosine`` is given."""

_NOTE = "At least "

_FIX = "Allow more with --max-drop, calibrate on more images, or train under rounding with --qat"


@dataclass(frozen=True)
class ExportLimits:
    """What a file must keep of the float model's answers; None does not check.

    Attributes:
        agreement: least share of images with the same top-1, 0..1.
        sqnr_db: least signal to quantisation noise of the logits, dB.
        max_drop: most points of top-1 that may be lost.
        explicit_drop: whether the user gave ``max_drop``: then labels are needed, and a loss that is observed on the
            images counts even where chance can explain it.
        cosine: least mean cosine of the vectors, for models that answer with them.
    """

    agreement: float | None = None
    sqnr_db: float | None = None
    max_drop: float | None = None
    explicit_drop: bool = False
    cosine: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The result of judging a file.

    Attributes:
        refusal: why the file must not be released; None where it may.
        unproven: a warning where the file may be released and could lose more than allowed, or a note where so few
            images could prove it of no file (``is_note``); None elsewhere.
        settled: whether more images are not needed.
        drop_bounds: one-sided 95 % bounds of the points of top-1 lost; None without labels.
    """

    refusal: ParityError | None
    unproven: str | None
    settled: bool
    drop_bounds: tuple[float, float] | None = None


def judge_until_told(
    measure: Callable[[int], Parity], looks: Sequence[int], limits: ExportLimits, file: str = "The file"
) -> tuple[Parity, Verdict]:
    """Judges a file on more and more images until it can be told whether it may be released.

    A file is refused when the lower bound of its loss is above the limit, and released when the upper bound is not.
    Both bounds are one-sided 95 % bounds over all looks together: ``critical_value`` widens them for the number of
    looks, so a file that loses exactly the limit is refused with a probability of at most 5 %. If the last look cannot
    tell, the file is released as unproven. Agreement is bounded in the same way; at the last look, and at the only one,
    the observed share decides.

    Args:
        measure: returns the comparison with the float model on so many images, those of earlier looks among them.
        looks: number of images at each look, rising.
        limits: what the file must keep.
        file: its name, for texts.
    """
    for position, images in enumerate(looks):
        parity = measure(images)
        verdict = verdict_on(parity, limits, critical_value(tuple(looks)), position == len(looks) - 1, file)
        if verdict.settled:
            break
    return parity, verdict


def verdict_on(parity: Parity, limits: ExportLimits, z: float, last: bool = True, file: str = "The file") -> Verdict:
    """Returns what a comparison with the float model says about a file.

    Args:
        parity: the comparison.
        limits: what the file must keep.
        z: critical value of the bounds.
        last: whether no more images will be run.
        file: its name, for texts.
    """
    bounds = None
    if parity.lost is not None and parity.gained is not None:
        low, high = loss_bounds(parity.lost, parity.gained, parity.images, z)
        bounds = 100 * low, 100 * high
    refusal = (
        _agreement(parity, limits, z, last, file)
        or _drop(parity, limits, bounds, last, file)
        or _distance(parity, limits, file)
        or _cosine(parity, limits, file)
    )
    if refusal is not None:
        return Verdict(refusal, None, True, bounds)
    doubtful = limits.max_drop is not None and bounds is not None and bounds[1] > limits.max_drop
    if last:
        return Verdict(None, _unproven(parity, limits, z, bounds, file) if doubtful else None, True, bounds)
    return Verdict(None, None, not doubtful and not _agreement_is_open(parity, limits, z), bounds)


def drop_of(parity: Parity) -> float | None:
    """Returns the points of top-1 that were lost, or None where labels are unknown."""
    if parity.top1 is None or parity.reference_top1 is None:
        return None
    return 100 * (parity.reference_top1 - parity.top1)


def agreement_bounds(parity: Parity, z: float) -> tuple[float, float]:
    """Returns the lower and the upper bound of the share of images with the same top-1."""
    return share_bounds(round((parity.top1_agreement or 0.0) * parity.images), parity.images, z)


def _distance(parity: Parity, limits: ExportLimits, file: str) -> ParityError | None:
    if limits.sqnr_db is None or parity.sqnr_db is None or parity.sqnr_db >= limits.sqnr_db:
        return None
    return ParityError(
        f"The logits of {file} are too far from the float model's",
        expected=f"an SQNR of at least {limits.sqnr_db:g} dB",
        got=f"{parity.sqnr_db:.1f} dB on {parity.images} images",
        fix="Calibrate on images like those that it will see, or say how close it must be with --min-agreement",
    )


def _cosine(parity: Parity, limits: ExportLimits, file: str) -> ParityError | None:
    if limits.cosine is None or parity.vectors is None or parity.vectors.cosine >= limits.cosine:
        return None
    return ParityError(
        f"The vectors of {file} are too far from the float model's",
        expected=f"a mean cosine of at least {limits.cosine:g}",
        got=f"{parity.vectors.cosine:.4f} on {parity.images} images",
        fix="Calibrate on images like those that it will see, or accept less with --min-cosine",
    )


def _agreement(parity: Parity, limits: ExportLimits, z: float, last: bool, file: str) -> ParityError | None:
    if limits.agreement is None or parity.top1_agreement is None or parity.top1_agreement >= limits.agreement:
        return None
    if not last and agreement_bounds(parity, z)[1] >= limits.agreement:
        return None
    return ParityError(
        f"{file} agrees too seldom with the float model",
        expected=f"the same top-1 on at least {limits.agreement:.2%} of {parity.images} images",
        got=f"{parity.top1_agreement:.2%}{_ties(parity)}",
        fix="Accept less with --min-agreement, or train longer",
    )


def _agreement_is_open(parity: Parity, limits: ExportLimits, z: float) -> bool:
    if limits.agreement is None or parity.top1_agreement is None:
        return False
    return agreement_bounds(parity, z)[0] < limits.agreement


def _ties(parity: Parity) -> str:
    if parity.near_ties is None or parity.near_tie_changes is None or parity.top1_agreement is None:
        return ""
    changed = round((1 - parity.top1_agreement) * parity.images)
    return f"; {parity.near_tie_changes} of the {changed} other answers are near ties" if changed else ""


def _drop(
    parity: Parity, limits: ExportLimits, bounds: tuple[float, float] | None, last: bool, file: str
) -> ParityError | None:
    drop, most = drop_of(parity), limits.max_drop
    if most is None:
        return None
    if bounds is None or drop is None:
        return _unknown_drop(file) if limits.explicit_drop else None
    if bounds[0] <= most and not (last and limits.explicit_drop and drop > most):
        return None
    return ParityError(
        f"{file} loses too much top-1",
        expected=f"a loss of at most {most:g} points",
        got=f"{drop:.2f} points on {parity.images} images ({_between(bounds)})",
        fix=_FIX,
    )


def _unknown_drop(file: str) -> ParityError:
    return ParityError(
        f"The top-1 that {file} loses is not known, since the data has no labels of the model's classes",
        expected="no --max-drop, or data with labels of the model's classes",
    )


def _unproven(parity: Parity, limits: ExportLimits, z: float, bounds: tuple[float, float] | None, file: str) -> str:
    drop, most = drop_of(parity), limits.max_drop
    assert bounds is not None
    assert drop is not None
    assert most is not None
    needed = images_to_prove(most, z)
    if drop <= most and needed is not None and parity.images < needed:
        return (
            f"{_NOTE}{needed} test images are needed to prove that a file loses at most {most:g} points of top-1, even "
            f"one that changes no answer; there are {parity.images}."
        )
    return (
        f"It is not proven that {file} loses at most {most:g} points of top-1: it loses {drop:.2f} points on "
        f"{parity.images} images ({_between(bounds)}). More test images would tell."
    )


def images_to_prove(max_drop: float, z: float) -> int | None:
    """Returns on how many images a file that changes no answer is proven to lose at most ``max_drop`` points.

    It is where Tango's upper bound of the loss, ``z^2 / (images + z^2)``, comes down to the limit. A limit of 0 is
    proven by no number of images, and has None.

    >>> images_to_prove(0.5, 1.645)
    539

    Args:
        max_drop: points of top-1, 0 to 100.
        z: critical value of the bound.
    """
    share = max_drop / 100
    return None if share <= 0 else max(1, math.ceil(z * z * (1 - share) / share))


def is_note(unproven: str) -> bool:
    """Returns whether a text of ``Verdict.unproven`` is about the number of images, and the same for all files."""
    return unproven.startswith(_NOTE)


def _between(bounds: tuple[float, float]) -> str:
    return f"95 % bounds {bounds[0]:.2f} and {bounds[1]:.2f}"
