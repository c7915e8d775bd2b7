"""Decides whether a float file may be computed in float16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.inspect.lint.half_run import HALF_MOST, XNNPACK, FloatFile, OpRange, simulated_images
from runtime import HalfArithmetic, Progress, UnsupportedTargetError, silent

from .compare import compare_logits
from .formats.tflite import HALF_ARITHMETIC

MIN_SQNR_DB = 30.0
"""Least signal to noise of the simulated outputs; a trained Vision Transformer has about 42 dB."""

MIN_AGREEMENT = 0.95
"""Least share of simulated images with the same top-1 as in float32, near ties not counted as changes."""


def judge_half(
    path: Path, images: npt.NDArray[np.float32] | None, macs: int, progress: Progress = silent, classes: bool = True
) -> HalfArithmetic:
    """Computes a file in float32 and in simulated float16, and says whether it may carry the metadata for float16.

    No value and no sum behind a mean may leave float16's range on any image. On some of the images, as many as a model
    of this size allows, the outputs in simulated float16 must have ``MIN_SQNR_DB`` and, where they are classes,
    ``MIN_AGREEMENT``.

    Args:
        path: the ``.tflite`` file.
        images: preprocessed calibration images, ``(N, H, W, C)``, or None.
        macs: multiply-accumulates of one image.
        progress: called after every image.
        classes: whether the outputs are classes.
    """
    if images is None:
        return HalfArithmetic(None, "There are no calibration images to simulate float16 on")
    count, step = simulated_images(macs, len(images))
    try:
        run = FloatFile(path).run(images, replace(XNNPACK, step=step), half_images=count, progress=progress)
    except UnsupportedTargetError as error:
        return HalfArithmetic(None, str(error))
    worst = max(run.ops, key=lambda op: op.most)
    finite = bool(np.isfinite(run.half).all())
    parity = compare_logits(run.half, run.single[:count], None, classes=classes) if finite else None
    found = HalfArithmetic(
        HALF_ARITHMETIC,
        None,
        images=len(images),
        largest=worst.most if np.isfinite(worst.most) else None,
        largest_at=worst.tensor if np.isfinite(worst.most) else None,
        simulated=count,
        step=step,
        sqnr_db=parity.sqnr_db if parity else None,
        top1_agreement=parity.top1_agreement if parity else None,
    )
    reason = _overflow(run.ops)
    if reason is None and parity is not None:
        agreement = 1.0 if parity.top1_agreement is None else parity.top1_agreement
        changed = round((1 - agreement) * count) - (parity.near_tie_changes or 0)
        if parity.sqnr_db is not None and parity.sqnr_db < MIN_SQNR_DB:
            reason = f"In simulated float16 the outputs have {parity.sqnr_db:.1f} dB, and {MIN_SQNR_DB:g} are needed"
        elif changed > (1 - MIN_AGREEMENT) * count:
            reason = f"In simulated float16 {changed} of {count} images have another top-1"
    return found if reason is None else replace(found, metadata=None, reason=reason)


def _overflow(ops: tuple[OpRange, ...]) -> str | None:
    """Returns what leaves the range of float16, or None."""
    for op in ops:
        if op.overflows:
            what = "values" if op.largest > HALF_MOST else "sums behind a mean"
            return (
                f"{op.op} '{op.tensor}' has {what} of {op.most:.4g}, more than float16's largest number {HALF_MOST:g}"
            )
        if not op.finite:
            return f"{op.op} '{op.tensor}' is not finite in simulated float16, and at most {op.largest:.4g} in float32"
    return None
