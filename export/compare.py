"""Runs a file that has no manifest yet, and compares its logits with those of the torch model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.vectors import mean_cosine, neighbours_kept
from runtime import ClassLoss, Parity, VectorParity, open_engine
from runtime.formats import format_of
from runtime.session import dequantise, quantise

NO_CLASSES = "the output is not classes"


def compare_logits(
    logits: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    no_labels_reason: str | None = None,
    classes: bool = True,
    whole: npt.NDArray[np.float32] | None = None,
) -> Parity:
    """Returns how ``logits`` compare with ``reference``, both ``(N, classes)``.

    Args:
        logits: outputs of the file.
        reference: outputs of the torch model.
        labels: true classes ``(N,)``, or None.
        no_labels_reason: why there are none.
        classes: whether the outputs are logits of classes; if not, they may have any shape ``(N, ...)`` and no top-1
            is compared. Those of ``(N, D)`` are compared as vectors, and those of ``(N, rows, columns, D)`` as grids.
        whole: vectors or grids of the whole model that the torch model was cut from; None where they are not known.
    """
    difference = logits.astype(np.float64) - reference.astype(np.float64)
    max_abs = float(np.abs(difference).max())
    signal, noise = float((reference.astype(np.float64) ** 2).sum()), float((difference**2).sum())
    max_rel = max_abs / max(float(np.abs(reference).max()), 1e-30)
    sqnr_db = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None
    if not classes:
        vectors = compare_vectors(logits, reference, whole) if reference.ndim in (2, 4) else None
        return Parity(len(reference), max_abs, max_rel, sqnr_db, None, None, None, NO_CLASSES, vectors=vectors)
    top1, wanted = logits.argmax(axis=1), reference.argmax(axis=1)
    near = near_ties(logits, reference)
    lost, gained = (None, None) if labels is None else _changes(top1 == labels, wanted == labels)
    return Parity(
        images=len(reference),
        max_abs=max_abs,
        max_rel=max_rel,
        sqnr_db=sqnr_db,
        top1_agreement=float((top1 == wanted).mean()),
        top1=None if labels is None else float((top1 == labels).mean()),
        reference_top1=None if labels is None else float((wanted == labels).mean()),
        top1_reason=no_labels_reason if labels is None else None,
        lost=lost,
        gained=gained,
        near_ties=int(near.sum()),
        near_tie_changes=int((near & (top1 != wanted)).sum()),
    )


def compare_vectors(
    vectors: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    whole: npt.NDArray[np.float32] | None = None,
) -> VectorParity:
    """Returns how ``vectors`` compare with ``reference``, and with the vectors of the whole model.

    All are ``(N, D)``, or grids ``(N, rows, columns, D)``.
    """
    if not np.isfinite(vectors).all():
        return VectorParity(0.0, None)  # the largest difference is not finite either, and the file is refused for it
    return VectorParity(
        mean_cosine(vectors, reference),
        neighbours_kept(vectors, reference),
        None if whole is None else mean_cosine(vectors, whole),
        None if whole is None else neighbours_kept(vectors, whole),
        None if whole is None else neighbours_kept(vectors, whole, rebuilt=True),
    )


def near_ties(logits: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Returns on which images the reference's two largest logits are closer than the error of ``logits``, ``(N,)``.

    The error is the root mean square over all images of the error of that difference. Rounding alone decides such an
    image, so another answer to it says little about the file.

    Args:
        logits: outputs of the file, ``(N, classes)``.
        reference: outputs of the torch model, ``(N, classes)``.
    """
    if reference.shape[1] < 2:
        return np.zeros(len(reference), np.bool_)
    second, first = np.argsort(reference, axis=1)[:, -2:].T
    rows = np.arange(len(reference))
    margins, found = (
        own[rows, first].astype(np.float64) - own[rows, second].astype(np.float64) for own in (reference, logits)
    )
    error = float(np.sqrt(np.square(found - margins).mean()))
    near: npt.NDArray[np.bool_] = margins < error
    return near


def losses_by_class(
    logits: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    names: Sequence[str],
) -> tuple[ClassLoss, ...]:
    """Returns what a file lost and gained on each class on which anything changed, in the order of the classes.

    Args:
        logits: outputs of the file, ``(N, classes)``.
        reference: outputs of the torch model, ``(N, classes)``.
        labels: true classes, ``(N,)``.
        names: of the classes.
    """
    found = []
    right, wanted = logits.argmax(axis=1) == labels, reference.argmax(axis=1) == labels
    for number in np.unique(labels[right != wanted]):
        own = labels == number
        found.append(ClassLoss(names[number], int(own.sum()), *_changes(right[own], wanted[own])))
    return tuple(found)


def _changes(right: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Returns the number of images that the reference alone answers right, and that the file alone answers right."""
    return int((wanted & ~right).sum()), int((right & ~wanted).sum())


def real_logits(
    path: Path, images: npt.NDArray[np.float32], done: Callable[[int], None] = lambda count: None, threads: int = 1
) -> npt.NDArray[np.float32]:
    """Returns the logits ``(N, classes)`` of a file without a manifest, run on one image at a time.

    Args:
        path: the file.
        images: preprocessed images ``(N, H, W, C)`` float32.
        done: called after every image with the number of images done.
        threads: of the engine.
    """
    engine = open_engine(path, threads=threads)
    channels_first = format_of(path).layout == "NCHW"
    outputs = []
    for count, image in enumerate(images, 1):
        raw: npt.NDArray[Any] = np.ascontiguousarray(image.transpose(2, 0, 1) if channels_first else image)[None]
        if engine.input_qparams is not None:
            raw = quantise(raw, *engine.input_qparams, engine.input_dtype.name)
        outputs.append(engine.run(raw)[0])
        done(count)
    stacked: npt.NDArray[Any] = np.stack(outputs)
    return dequantise(stacked, *engine.output_qparams) if engine.output_qparams else stacked.astype(np.float32)
