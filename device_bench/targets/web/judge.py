"""Compares the outputs of a browser with those of this machine's CPU, and says when they are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .offer import OfferedFile

LEAST_COSINE = 0.99
"""Least cosine of each output of a float32 file; a GPU may round to float16."""

LEAST_COSINE_OF_INTEGERS = 0.9
"""Least mean cosine of the outputs of a file of integers, whose roundings differ between engines."""

LEAST_AGREEMENT = 0.9
"""Least share of labelled pictures with the same top-1, where there are enough to tell."""

_ENOUGH = 20


@dataclass(frozen=True)
class AnswerVerdict:
    """How outputs compare with those of this machine's CPU.

    Attributes:
        images: number of pictures.
        same: number of pictures with the same largest value.
        cosine: least cosine of an output; 0 where one is not finite.
        mean_cosine: mean cosine of the outputs.
        top1: the largest value's index for each picture.
        wrong: why they are wrong; None if they are right.
    """

    images: int
    same: int
    cosine: float
    mean_cosine: float
    top1: tuple[int, ...]
    wrong: str | None

    @property
    def words(self) -> str:
        """The comparison in words."""
        return f"the same answer as on the CPU for {self.same} of {self.images} pictures, cosine {self.cosine:.6f}"


def judge_answers(file: OfferedFile, outputs: npt.NDArray[np.float32]) -> AnswerVerdict:
    """Compares the outputs of a file in a browser with its outputs here.

    A float32 file is wrong when one output has a cosine below ``LEAST_COSINE``; a file of integers when the mean cosine
    is below ``LEAST_COSINE_OF_INTEGERS``. Either is wrong when fewer than ``LEAST_AGREEMENT`` of 20 or more labelled
    pictures have the same top-1, or when an output is not finite.

    Args:
        file: the file, with its outputs here.
        outputs: outputs of the browser in real units, ``(N, values)``.
    """
    there, here = outputs.astype(np.float64), file.answers.astype(np.float64)
    finite = bool(np.isfinite(there).all())
    safe = np.where(np.isfinite(there), there, 0.0)
    scale = np.linalg.norm(safe, axis=1) * np.linalg.norm(here, axis=1)
    cosines = (safe * here).sum(axis=1) / np.maximum(scale, 1e-30)
    top1 = safe.argmax(axis=1)
    same = int((top1 == here.argmax(axis=1)).sum())
    least, mean = (float(cosines.min()), float(cosines.mean())) if finite else (0.0, 0.0)
    return AnswerVerdict(
        images=len(here),
        same=same,
        cosine=least,
        mean_cosine=mean,
        top1=tuple(map(int, top1)),
        wrong=_wrong(file, finite=finite, least=least, mean=mean, agreement=same / len(here)),
    )


def _wrong(file: OfferedFile, *, finite: bool, least: float, mean: float, agreement: float) -> str | None:
    if not finite:
        return "outputs are not finite"
    if not file.integers and least < LEAST_COSINE:
        return f"an output has a cosine of {least:.4f} to the CPU's, and {LEAST_COSINE:g} is the least"
    if mean < LEAST_COSINE_OF_INTEGERS:
        return (
            f"the outputs have a mean cosine of {mean:.4f} to the CPU's, and {LEAST_COSINE_OF_INTEGERS:g} is the least"
        )
    if file.labels is not None and len(file.labels) >= _ENOUGH and agreement < LEAST_AGREEMENT:
        share, least_share = 100 * agreement, 100 * LEAST_AGREEMENT
        return f"{share:.0f} % of the pictures have the CPU's answer, and {least_share:g} % is the least"
    return None
