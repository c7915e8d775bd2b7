"""Lints a ``.tflite`` file for an engine, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.graph.file_model import tflite_model
from export.inspect.against.comparison_images import images_for
from export.inspect.contents import summarise_contents
from export.inspect.partitions import find_partitions
from runtime import Progress, UnsupportedTargetError, silent

from .base import LintedEngine, LintFinding, counted_findings
from .engines import LINTED
from .half_run import HALF_MOST, FloatFile, OpRange, simulated_images
from .numpy_ops import Arithmetic

_SCALE = (
    "Scale what writes into the residual stream by a power of two and the norms' epsilons by its square; an export by "
    "PocketViT does it from calibration images that are like these"
)


@dataclass(frozen=True)
class HalfCheck:
    """What running images in float32 and in simulated float16 found.

    Attributes:
        file: name of the float file that ran.
        source: where the images come from.
        images: number of images in float32.
        simulated: number of those that were also computed in float16.
        step: number of products in a sum between two roundings of the simulation.
        ops: the largest value, and the largest sum behind a mean, of every operator.
        sqnr_db: signal to noise of the outputs in float16, dB; None where they are identical or not finite.
    """

    file: str
    source: str
    images: int
    simulated: int
    step: int
    ops: tuple[OpRange, ...]
    sqnr_db: float | None


@dataclass(frozen=True)
class Lint:
    """All findings about a file.

    Attributes:
        file: name of the file.
        engine: name of the engine.
        title: of the engine in texts.
        findings: in the order of the rules.
        half: the check of float16's range; None with a reason.
        half_reason: why ``half`` is None.
    """

    file: str
    engine: str
    title: str
    findings: tuple[LintFinding, ...]
    half: HalfCheck | None
    half_reason: str | None

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def lint(path: Path, engine: str, images: Path | None = None, progress: Progress = silent) -> Lint:
    """Lints a file in this process; ``lint_file`` does it in a sandbox.

    Args:
        path: the ``.tflite`` file.
        engine: a name of ``LINTED``.
        images: an ``.npz`` file as for ``images_for``; None takes the test images of the file's run.
        progress: called after every image.

    Raises:
        ArtifactError: the file or the images are missing or damaged.
        DataError: the images do not fit.
        MissingExtraError: ai-edge-litert is not installed.
        UnsupportedTargetError: there is no such engine.
    """
    linted, model = LINTED[engine], tflite_model(path)
    findings = [own for rule in linted.rules for own in rule(model)]
    if linted.delegate:
        findings += _left_by_xnnpack(path)
    half, reason = None, "this engine computes the file as it is, not in float16"
    if linted.half(model):
        half, reason = _half(path, linted, images, progress)
        findings += [] if half is None else _overflows(half)
    return Lint(path.name, linted.name, linted.title, counted_findings(findings), half, None if half else reason)


def _left_by_xnnpack(path: Path) -> Iterator[LintFinding]:
    fallback = find_partitions(path).fallback or {}
    for kind, count in fallback.items():
        yield LintFinding(
            "operator",
            kind,
            "",
            "an operator that XNNPACK leaves to LiteRT's slower kernels",
            "Write it in a form that XNNPACK takes",
            count,
        )


def _half(path: Path, linted: LintedEngine, images: Path | None, progress: Progress) -> tuple[HalfCheck | None, str]:
    """Runs the float form of a file on images; returns what it found, or why it did not run."""
    floats, problem = None, ""
    for own in (path, path.with_name(f"{path.name.split('.')[0]}.fp32.tflite")):
        try:
            floats = FloatFile(own) if own.is_file() else None
        except UnsupportedTargetError as error:
            problem = problem or str(error)
        if floats is not None:
            path = own
            break
    if floats is None:
        return None, problem
    found = images_for(path, images, floats.input_shape)
    if not found.real:
        return None, "there are no images: name some with --images"
    work = sum(row.macs or 0 for row in summarise_contents(tflite_model(path), path.stat().st_size).ops)
    count, step = simulated_images(work, len(found.values))
    run = floats.run(found.values, Arithmetic(True, step, linted.newton), half_images=count, progress=progress)
    single = run.single[:count].astype(np.float64)
    noise = float(((run.half - single) ** 2).sum())
    sqnr_db = float(10 * np.log10((single**2).sum() / noise)) if np.isfinite(noise) and noise > 0 else None
    return HalfCheck(path.name, found.source, len(found.values), count, step, run.ops, sqnr_db), ""


def _overflows(half: HalfCheck) -> Iterator[LintFinding]:
    """Yields operators that leave the range of float16; of those that only follow one, nothing."""
    for op in half.ops:
        at = f"{op.op} #{op.index}"
        if op.overflows:
            what = f"values up to {op.largest:.4g}" if op.largest > HALF_MOST else f"a sum of {op.most:.4g}"
            yield LintFinding("float16 overflow", at, op.tensor, f"{what}; float16 ends at {HALF_MOST:g}", _SCALE)
    if not any(op.overflows for op in half.ops):
        lost = next((op for op in half.ops if not op.finite), None)
        if lost is not None:
            found = f"not finite in simulated float16, and at most {lost.largest:.4g} in float32"
            yield LintFinding("float16 overflow", f"{lost.op} #{lost.index}", lost.tensor, found, _SCALE)
