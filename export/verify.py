"""Runs an exported file on real images and compares it with the torch model it came from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from runtime import Artifact, Parity, ParityError, Progress, Session, silent

from .compare import compare_logits
from .formats import kind_of

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a float file's logits from torch, relative to the largest logit."""

BATCH = 32
"""Size of the batches that a file with a free batch dimension is also run on."""

_ALIKE = 2000
"""One of this many images may have another top-1 in a batch than alone: another order of sums can decide a tie."""


def measure_parity(
    session: Session,
    inputs: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    no_labels_reason: str | None = None,
    progress: Progress = silent,
) -> Parity:
    """Runs ``session`` on single images, and on batches where it takes them, and compares with the torch model.

    Args:
        session: the exported file, loaded.
        inputs: preprocessed images ``(N, H, W, C)`` float32, N at least 1.
        reference: the torch model's outputs for them, ``(N, ...)``.
        labels: true classes ``(N,)``, or None.
        no_labels_reason: why there are no labels.
        progress: called while images run.
    """
    free, file = session.artifact.input.shape[0] < 0, session.artifact.file
    total, done, runs = len(inputs) * (2 if free else 1), 0, []
    for size in (1, BATCH) if free else (max(1, session.artifact.input.shape[0]),):
        parts = []
        for start in range(0, len(inputs), size):
            parts.append(session.outputs(inputs[start : start + size]))
            done += len(parts[-1])
            progress("verify", done, total, f"{file}, {size} at a time")
        runs.append(np.concatenate(parts))
    classes = session.artifact.output_kind == "classes"
    parity = compare_logits(runs[0], reference, labels, no_labels_reason, classes)
    if not free or not classes:
        return parity
    return replace(parity, batch_agreement=float((runs[0].argmax(axis=1) == runs[1].argmax(axis=1)).mean()))


def check_parity(artifact: Artifact, min_agreement: float | None) -> None:
    """Checks that a file computes what the torch model computes, as far as its kind promises.

    Args:
        artifact: manifest with its parity measured.
        min_agreement: least share of images with the same top-1, for kinds held to the top-1; None does not check.

    Raises:
        ParityError: the logits differ too much, the top-1 agrees too seldom, or the file answers differently in a
            batch.
    """
    parity, kind = artifact.parity, kind_of(artifact)
    held_to, agreement = kind.held_to if kind else "nothing", parity.top1_agreement
    if not math.isfinite(parity.max_abs):
        raise ParityError(f"{artifact.file} answers with numbers that are not finite")
    if held_to == "logits":
        if parity.max_rel > FLOAT_TOLERANCE or (agreement is not None and agreement < 1.0):
            raise ParityError(
                f"{artifact.file} does not compute what the torch model computes",
                expected=f"logits within {FLOAT_TOLERANCE:g} relative and 100 % of top-1",
                got=f"{parity.max_rel:.2e}, and {parity.top1_agreement} of the top-1 of {parity.images} images",
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
    if held_to == "top-1" and min_agreement is not None and agreement is not None and agreement < min_agreement:
        raise ParityError(
            f"{artifact.file} agrees too seldom with the float model",
            expected=f"the same top-1 on at least {min_agreement:.2%} of {parity.images} images",
            got=f"{agreement:.2%}",
            fix="Accept less with --min-agreement, or train longer",
        )


def check_drop(artifact: Artifact, max_drop: float | None) -> None:
    """Checks that an integer file lost no more top-1 than allowed on the images that its recipe was chosen on.

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
            f"The top-1 that {artifact.file} loses is not known, since the data has no labels of the model's classes",
            expected="no --max-drop, or data with labels of the model's classes",
        )
    raise ParityError(
        f"No recipe of {artifact.file} loses so little",
        expected=f"at most {max_drop:g} points of top-1 on {trial.images} held-out images",
        got=f"{artifact.recipe} comes closest and loses {trial.top1_drop:.2f}",
        fix="Allow more with --max-drop, calibrate on more images, or train under rounding with --qat",
    )
