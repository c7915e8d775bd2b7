"""Runs an exported file on real images and compares it with the torch model it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import Artifact, Engine, Parity, ParityError, Progress, Session, silent

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a float file's logits from torch, relative to the largest logit."""


BATCH = 32
"""Images of a batch that a file with a free batch dimension is run on beside single ones."""

_ALIKE = 2000
"""Of so many images one may be answered otherwise in a batch than alone: sums in another order decide a tie."""


def measure_parity(
    session: Session,
    inputs: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    no_labels_reason: str | None = None,
    progress: Progress = silent,
) -> Parity:
    """Runs ``session`` on every image alone and compares; where it takes batches, on batches too.

    Args:
        session: the exported file, loaded.
        inputs: preprocessed images ``(N, H, W, C)`` float32, N at least 1.
        reference: the torch model's logits for them, ``(N, classes)``.
        labels: ``(N,)``, or None.
        no_labels_reason: why there are none.
        progress: told while images run.
    """
    free, file = session.artifact.input.shape[0] < 0, session.artifact.file
    total, done, runs = len(inputs) * (2 if free else 1), 0, []
    for size in (1, BATCH) if free else (max(1, session.artifact.input.shape[0]),):
        parts = []
        for start in range(0, len(inputs), size):
            parts.append(session.logits(inputs[start : start + size]))
            done += len(parts[-1])
            progress("verify", done, total, f"{file}, {size} at a time")
        runs.append(np.concatenate(parts))
    parity = compare_logits(runs[0], reference, labels, no_labels_reason)
    if not free:
        return parity
    return replace(parity, batch_agreement=float((runs[0].argmax(axis=1) == runs[1].argmax(axis=1)).mean()))


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
        ParityError: a float file that differs, an ``fp16`` or ``int8`` file that agrees too seldom, or one that
            answers otherwise in a batch.
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
    if parity.batch_agreement is not None and min_agreement is not None:
        others = round((1 - parity.batch_agreement) * parity.images)
        if others > max(1, parity.images // _ALIKE):
            raise ParityError(
                f"{artifact.file} answers images in batches of {BATCH} otherwise than alone",
                expected=f"the same top-1 on all but 1 of {_ALIKE} images",
                got=f"another one on {others} of {parity.images}",
                fix="This is a fault of the conversion: report it with the plan",
            )
    if artifact.precision in ("fp16", "int8") and min_agreement is not None and parity.top1_agreement < min_agreement:
        raise ParityError(
            f"{artifact.file} agrees too seldom with the float model",
            expected=f"the same top-1 on at least {min_agreement:.2%} of {parity.images} images",
            got=f"{parity.top1_agreement:.2%}",
            fix="Accept less with --min-agreement, or train longer",
        )


def check_drop(artifact: Artifact, max_drop: float | None) -> None:
    """Raises where an integer file lost more than was allowed on the images that its recipe was chosen on.

    Args:
        artifact: with its trials.
        max_drop: most points of top-1 that may be lost; None does not check.

    Raises:
        ParityError: it lost more, or it is not known how much.
    """
    trial = next((trial for trial in artifact.trials if trial.recipe == artifact.recipe), None)
    if max_drop is None or trial is None or (trial.top1_drop is not None and trial.top1_drop <= max_drop):
        return
    if trial.top1_drop is None:
        raise ParityError(
            f"It is not known how much top-1 {artifact.file} loses, since the model has classes of its own",
            expected="no --max-drop, or data of the model's classes",
        )
    raise ParityError(
        f"No recipe of {artifact.file} loses so little",
        expected=f"at most {max_drop:g} points of top-1 on {trial.images} held-out images",
        got=f"{artifact.recipe} comes closest and loses {trial.top1_drop:.2f}",
        fix="Allow more with --max-drop, calibrate on more images, or train under rounding with --qat",
    )


def real_logits(
    engine: Engine, images: npt.NDArray[np.float32], tell: Callable[[int], None] | None = None
) -> npt.NDArray[np.float32]:
    """Returns the logits ``(N, classes)`` of a TFLite or ONNX file that has no manifest yet, run on single images.

    Args:
        engine: with the file.
        images: ``(N, H, W, C)``.
        tell: told after every image how many are done.
    """
    outputs = []
    for done, image in enumerate(images, 1):
        channels_first = engine.name == "onnxruntime"
        raw: npt.NDArray[Any] = np.ascontiguousarray(image.transpose(2, 0, 1) if channels_first else image)[None]
        if engine.input_qparams is not None:
            scale, zero_point = engine.input_qparams
            limits = np.iinfo(engine.input_dtype)
            raw = np.clip(np.rint(raw / np.float32(scale)) + zero_point, limits.min, limits.max)
        outputs.append(engine.run(raw.astype(engine.input_dtype))[0])
        if tell is not None:
            tell(done)
    stacked = np.stack(outputs)
    if engine.output_qparams is None:
        return stacked.astype(np.float32)
    scale, zero_point = engine.output_qparams
    return ((stacked.astype(np.float32) - zero_point) * np.float32(scale)).astype(np.float32)
