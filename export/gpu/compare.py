"""Judges a file's answers on the GPU path: against the CPU's, and integer files against the float model's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from export.compare import compare_logits, near_ties
from runtime import Artifact, GpuParity
from runtime.gpu.adapter import Adapter
from runtime.gpu.run import GpuAnswers

COSINE = 0.9999
"""Least cosine of a float file's outputs on GPU and CPU where the GPU computes in float32."""

COSINE_HALF = 0.99
"""The same where it rounds to float16, or where that is not known."""

MAX_LOSS_DB = 1.0
"""Most dB that an integer file's SQNR against the float model may be lower on the GPU than on the CPU."""

_CHANCE = 16
"""One of this many images may have another top-1 on the GPU although it is no near tie on the CPU, since the two round
differently."""

_DRAWS = 2000
_LEAST_NOISE = 1e-12
"""Noise of identical outputs, so that two of them have the same SQNR."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FileKind:
    """What the comparison needs to know of a file.

    Attributes:
        integer: whether it has integers whose ranges were calibrated; otherwise it is a float file.
        classes: whether its output is a logit for each class.
        sqnr_db: its SQNR on the CPU against the float model, dB, as its manifest has it; None where it is not known.
    """

    integer: bool
    classes: bool = True
    sqnr_db: float | None = None


def file_kind(artifact: Artifact) -> FileKind:
    """Returns what a manifest says of its file."""
    return FileKind(artifact.calibration is not None, artifact.output_kind == "classes", artifact.parity.sqnr_db)


def judge_gpu(kind: FileKind, answers: GpuAnswers, adapter: Adapter, reference: Array | None = None) -> GpuParity:
    """Returns how the answers of the GPU compare, and why they are wrong if they are.

    The outputs of a float file must have the direction that they have on the CPU. CPU and GPU round an integer file
    differently, so its outputs on the GPU must be as near to the float model's as those on the CPU are. Where the float
    model's outputs are not known, the two may be apart as far as two files with the SQNR of the manifest can be.

    Args:
        kind: of the file.
        answers: the outputs of the file.
        adapter: the graphics adapter.
        reference: outputs of the float model on the same images, ``(N, …)``; None where they are not known.
    """
    cpu, gpu = (own.reshape(len(own), -1) for own in (answers.cpu, answers.gpu))
    known = None if reference is None else reference[: len(gpu)].reshape(len(gpu), -1)
    if not np.isfinite(gpu).all():
        return GpuParity(
            driver=adapter.name,
            software=adapter.software,
            arithmetic=adapter.arithmetic,
            images=len(gpu),
            whole=answers.whole,
            wrong="Its outputs on the GPU are not finite.",
        )
    cosines = _cosines(cpu, gpu)
    near, agreement = _agreement(cpu, gpu, known, adapter) if kind.classes else (None, None)
    found = GpuParity(
        driver=adapter.name,
        software=adapter.software,
        arithmetic=adapter.arithmetic,
        images=len(gpu),
        whole=answers.whole,
        cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_rel=compare_logits(gpu, cpu, None, classes=False).max_rel,
        sqnr_db=None if known is None else sqnr_db(gpu, known),
        cpu_sqnr_db=None if known is None else sqnr_db(cpu, known),
        near_ties=near,
        top1_agreement=agreement,
    )
    return replace(found, wrong=_why_wrong(found, kind, cpu, gpu, known))


def sqnr_db(outputs: Array, reference: Array) -> float | None:
    """Returns the signal to quantisation noise of outputs against the float model's, dB; None where they are identical.

    Args:
        outputs: of the file, ``(N, …)``.
        reference: of the float model, of the same shape.
    """
    return compare_logits(outputs, reference, None, classes=False).sqnr_db


def least_loss_db(cpu: Array, gpu: Array, reference: Array) -> float:
    """Returns the lower one-sided 95 % bound of the dB by which the SQNR is lower on the GPU than on the CPU.

    The bound is a percentile of bootstrap draws of the images (Efron and Tibshirani 1993, chapter 13), since few images
    with large errors decide an SQNR.

    Args:
        cpu: outputs on the CPU, ``(N, …)``.
        gpu: outputs on the GPU.
        reference: of the float model.
    """
    noise = [np.square(own.astype(np.float64) - reference).sum(axis=1) for own in (cpu, gpu)]
    drawn = np.random.default_rng(0).integers(0, len(cpu), (_DRAWS, len(cpu)))
    on_cpu, on_gpu = (own[drawn].sum(axis=1) for own in noise)
    ratios = np.maximum(on_gpu, _LEAST_NOISE) / np.maximum(on_cpu, _LEAST_NOISE)
    return float(np.quantile(10 * np.log10(ratios), 0.05))


def within_error(outputs: Array, reference: Array) -> npt.NDArray[np.bool_]:
    """Returns on which images the float model's two largest outputs are closer than the file's error there, ``(N,)``.

    The error of an image is the largest by which the difference of the top-1 class to another class is off.

    Args:
        outputs: of the file on the CPU, ``(N, classes)``.
        reference: of the float model, ``(N, classes)``.
    """
    if reference.shape[1] < 2:
        return np.zeros(len(reference), np.bool_)
    second, first = np.argsort(reference, axis=1)[:, -2:].T
    rows, off = np.arange(len(reference)), outputs.astype(np.float64) - reference
    errors = np.abs(off[rows, first][:, None] - off).max(axis=1)
    near: npt.NDArray[np.bool_] = reference[rows, first] - reference[rows, second] < errors
    return near


def _cosines(cpu: Array, gpu: Array) -> npt.NDArray[np.float64]:
    a, b = cpu.astype(np.float64), gpu.astype(np.float64)
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1) / np.maximum(sizes, 1e-30)
    cosines: npt.NDArray[np.float64] = np.where((a == b).all(axis=1), 1.0, products)
    return cosines


def _agreement(cpu: Array, gpu: Array, known: Array | None, adapter: Adapter) -> tuple[int, float | None]:
    """Returns the number of near ties, and the share of the other images with the same top-1 on the GPU."""
    wanted = cpu if known is None else known
    # the file's error is that on the CPU; where none is known, or the GPU rounds more, it is the GPU's
    near = within_error(cpu, wanted)
    if known is None or adapter.arithmetic != "fp32":
        near = near | near_ties(gpu, wanted)
    same = (gpu.argmax(axis=1) == wanted.argmax(axis=1))[~near]
    return int(near.sum()), float(same.mean()) if len(same) else None


def _why_wrong(found: GpuParity, kind: FileKind, cpu: Array, gpu: Array, known: Array | None) -> str | None:
    assert found.cosine is not None
    if not kind.integer:
        least = COSINE if found.arithmetic == "fp32" else COSINE_HALF
        if found.cosine < least:
            return (
                f"Its outputs on the GPU have a cosine of {found.cosine:.4f} to those on the CPU; that of a right file "
                f"is at least {least:g}."
            )
    elif known is not None:
        if least_loss_db(cpu, gpu, known) > MAX_LOSS_DB:
            right = "no error" if found.cpu_sqnr_db is None else f"{found.cpu_sqnr_db:.1f} dB"
            return f"Its SQNR against the float model is {found.sqnr_db:.1f} dB on the GPU and {right} on the CPU."
    else:
        least_db, own = _least_db(kind.sqnr_db), sqnr_db(gpu, cpu)
        if own is not None and least_db is not None and own < least_db:
            return (
                f"Its outputs on the GPU have an SQNR of {own:.1f} dB against those on the CPU; that of a right file "
                f"with its error against the float model is at least {least_db:.1f} dB."
            )
    return _why_other_classes(found)


def _why_other_classes(found: GpuParity) -> str | None:
    if found.top1_agreement is None or found.near_ties is None:
        return None
    clear = found.images - found.near_ties
    others = round((1 - found.top1_agreement) * clear)
    if others <= max(1, clear // _CHANCE):
        return None
    return f"Its top-1 on the GPU is another on {others} of {clear} images that are no near ties."


def _least_db(recorded: float | None) -> float | None:
    """Returns the least SQNR of GPU against CPU that a right file can have, dB, by the triangle inequality.

    Args:
        recorded: SQNR of the file on the CPU against the float model, dB.
    """
    if recorded is None:
        return None
    return recorded - 20 * math.log10(1 + 10 ** (MAX_LOSS_DB / 20))
