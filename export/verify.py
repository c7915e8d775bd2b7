"""Runs an exported file on real images and compares it with the torch model it came from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import Artifact, Engine, Parity, ParityError, Session

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a float file's logits from torch, relative to the largest logit."""


def measure_parity(
    session: Session,
    inputs: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    no_labels_reason: str | None = None,
) -> Parity:
    """Runs ``session`` on every image and compares.

    Args:
        session: the exported file, loaded.
        inputs: preprocessed images ``(N, H, W, C)`` float32, N at least 1.
        reference: the torch model's logits for them, ``(N, classes)``.
        labels: ``(N,)``, or None.
        no_labels_reason: why there are none.
    """
    logits = session.logits(inputs)
    return compare_logits(logits, reference, labels, no_labels_reason)


def compare_logits(
    logits: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    no_labels_reason: str | None = None,
) -> Parity:
    """Returns how ``logits`` compare with ``reference``, both ``(N, classes)``."""
    difference = logits.astype(np.float64) - reference.astype(np.float64)
    max_abs = float(np.abs(difference).max())
    signal, noise = float((reference.astype(np.float64) ** 2).sum()), float((difference**2).sum())
    top1, wanted = logits.argmax(axis=1), reference.argmax(axis=1)
    return Parity(
        images=len(reference),
        max_abs=max_abs,
        max_rel=max_abs / max(float(np.abs(reference).max()), 1e-30),
        sqnr_db=10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None,
        top1_agreement=float((top1 == wanted).mean()),
        top1=None if labels is None else float((top1 == labels).mean()),
        reference_top1=None if labels is None else float((wanted == labels).mean()),
        top1_reason=no_labels_reason if labels is None else None,
    )


def check_parity(artifact: Artifact, min_agreement: float | None) -> None:
    """Raises where the file is not the model it came from.

    Args:
        artifact: with its parity measured.
        min_agreement: for ``fp16`` and ``int8`` files, the least share of images with the same top-1; None does not
            check.

    Raises:
        ParityError: a float file that differs, or an ``fp16`` or ``int8`` file that agrees too seldom.
    """
    parity = artifact.parity
    if not math.isfinite(parity.max_abs):
        raise ParityError(f"{artifact.file} answers with numbers that are not finite")
    if artifact.precision == "fp32":
        if parity.max_rel > FLOAT_TOLERANCE or parity.top1_agreement < 1.0:
            raise ParityError(
                f"{artifact.file} does not compute what the torch model computes",
                expected=f"logits within {FLOAT_TOLERANCE:g} relative and 100 % of top-1",
                got=f"{parity.max_rel:.2e} and {parity.top1_agreement:.2%} of {parity.images} images",
                fix="This is a fault of the conversion: report it with the plan",
            )
    elif artifact.precision in ("fp16", "int8") and min_agreement is not None and parity.top1_agreement < min_agreement:
        raise ParityError(
            f"{artifact.file} agrees too seldom with the float model",
            expected=f"the same top-1 on at least {min_agreement:.2%} of {parity.images} images",
            got=f"{parity.top1_agreement:.2%}",
            fix="Accept less with --min-agreement, or train longer",
        )


def real_logits(engine: Engine, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the logits ``(N, classes)`` of a TFLite file that has no manifest yet, for images ``(N, H, W, C)``."""
    outputs = []
    for image in images:
        raw: npt.NDArray[Any] = image[None]
        if engine.input_qparams is not None:
            scale, zero_point = engine.input_qparams
            limits = np.iinfo(engine.input_dtype)
            raw = np.clip(np.rint(raw / np.float32(scale)) + zero_point, limits.min, limits.max)
        outputs.append(engine.run(raw.astype(engine.input_dtype))[0])
    stacked = np.stack(outputs)
    if engine.output_qparams is None:
        return stacked.astype(np.float32)
    scale, zero_point = engine.output_qparams
    return ((stacked.astype(np.float32) - zero_point) * np.float32(scale)).astype(np.float32)
