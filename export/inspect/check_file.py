"""Checks the bytes and the widths of a file against its manifest, and runs it on random images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from runtime import (
    Artifact,
    ArtifactError,
    DataError,
    GpuParity,
    MissingExtraError,
    Parity,
    Progress,
    UnsupportedTargetError,
    decode,
    read_artifact,
    sha256_of,
    silent,
)
from runtime.formats import format_of

from .inspection import check_readable, read_widths_in_sandbox
from .readers import READERS
from .running import GpuAnalysis, Ran
from .sandbox import Sandbox

IMAGES = 16
MOST_IMAGES = 10_000


@dataclass(frozen=True)
class FileCheck:
    """One check of a file, with its result and the finding in words."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class EngineComparison:
    """Comparison of two engines on the same images.

    Attributes:
        engine: name of the other engine.
        version: of the other engine.
        max_abs: largest absolute difference of an output; None where an output is missing or not finite.
        top1_agreement: share of images with the same top-1 class, 0..1; None as for ``max_abs``, and without classes.
        gpu: analysis of TFLite's GPU delegate.
    """

    engine: str
    version: str
    max_abs: float | None
    top1_agreement: float | None
    gpu: GpuAnalysis | None


@dataclass(frozen=True)
class Verification:
    """All checks of a file.

    Attributes:
        file: name of the file.
        images: number of random images it ran on.
        checks: in the order of their making.
        parity: comparison with the torch model on real images, from the manifest.
        comparison: with another engine, if one was asked for and ran.
        gpu: comparison with LiteRT's GPU path, if it was asked for and ran.
    """

    file: str
    images: int
    checks: tuple[FileCheck, ...]
    parity: Parity
    comparison: EngineComparison | None
    gpu: GpuParity | None = None

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)


def verify_file(
    path: Path,
    *,
    images: int = IMAGES,
    against: str | None = None,
    progress: Progress = silent,
    sandbox: Sandbox | None = None,
) -> Verification:
    """Checks a file against its manifest and runs it on random images, in a sandboxed process.

    Args:
        path: the model file, with its manifest in the same folder.
        images: number of random images, at least 1.
        against: ``tensorflow``, to compare with its interpreter.
        progress: called while images run.
        sandbox: the process that opens the file; by default one for this call.

    Raises:
        ArtifactError: there is no such file, or its manifest is missing or damaged.
        DataError: no images, or too many.
        UnsupportedTargetError: there is no such engine to compare with, or it does not read the format.
        MissingExtraError: an engine is not installed.
    """
    check_readable(path)
    if not 1 <= images <= MOST_IMAGES:
        raise DataError("The number of images is out of range", expected=f"1 to {MOST_IMAGES}", got=images)
    _check_other(path, against)
    artifact = read_artifact(path, verify=False)
    if sandbox is None:
        with Sandbox() as sandbox:
            return verify_file(path, images=images, against=against, progress=progress, sandbox=sandbox)
    checks = [_size(path, artifact), _hash(path, artifact), _widths(path, artifact, sandbox)]
    own, more = _run("run", path, artifact, images, sandbox, progress)
    checks += more
    comparison = None
    if against is not None:
        other, more = _run("tensorflow", path, artifact, images, sandbox, progress)
        checks += more
        if other is not None:
            max_abs, agreement = _differences(own, other)
            agreement = agreement if artifact.output_kind == "classes" else None
            comparison = EngineComparison(other.engine, other.version, max_abs, agreement, other.gpu)
    return Verification(path.name, images, tuple(checks), artifact.parity, comparison)


def _check_other(path: Path, against: str | None) -> None:
    if against is None:
        return
    if against != "tensorflow":
        raise UnsupportedTargetError("No such engine to compare with", expected="tensorflow or gpu", got=against)
    if format_of(path).name != "tflite":
        raise UnsupportedTargetError(f"{path.name} does not run in TensorFlow's interpreter", expected="a .tflite file")
    if find_spec("tensorflow") is None:
        raise MissingExtraError("tensorflow", "tensorflow")


def _size(path: Path, artifact: Artifact) -> FileCheck:
    size = path.stat().st_size
    same = size == artifact.size_bytes
    return FileCheck("size", same, f"{size} bytes" + ("" if same else f", the manifest says {artifact.size_bytes}"))


def _hash(path: Path, artifact: Artifact) -> FileCheck:
    digest = sha256_of(path)
    same = digest == artifact.sha256
    return FileCheck("sha256", same, digest + ("" if same else f", the manifest says {artifact.sha256}"))


def _widths(path: Path, artifact: Artifact, sandbox: Sandbox) -> FileCheck:
    plan = artifact.plan
    if plan is None or artifact.format not in READERS:
        why = "the manifest has no plan" if plan is None else f"{artifact.format} files have no reader"
        return FileCheck("widths", True, f"not compared: {why}")

    def look() -> FileCheck:
        found = read_widths_in_sandbox(path, plan, sandbox)
        if found == plan:
            return FileCheck("widths", True, f"embed_dim {plan.embed_dim}, {len(plan.blocks)} blocks, as planned")
        differing = [str(i) for i, (a, b) in enumerate(zip(found.blocks, plan.blocks, strict=True)) if a != b]
        text = f"embed_dim {found.embed_dim}, the manifest says {plan.embed_dim}"
        return FileCheck("widths", False, text + (f"; blocks {', '.join(differing)} differ" if differing else ""))

    return _checked("widths", look)


def _run(
    job: str, path: Path, artifact: Artifact, images: int, sandbox: Sandbox, progress: Progress
) -> tuple[Ran | None, list[FileCheck]]:
    """Runs the file, and returns its outputs with the checks of them."""
    suffix = " in TensorFlow" if job == "tensorflow" else ""
    try:
        asked = sandbox.run(job, path, progress, images=images)
        ran = decode(Ran, asked, "what the engine answered")
    except MissingExtraError:
        raise
    except ArtifactError as error:
        return None, [FileCheck(f"loads and runs{suffix}", False, str(error))]
    wanted = tuple(size if size > 0 else 1 for size in artifact.output.shape)
    given = tuple(size if size > 0 else 1 for size in ran.input_shape)
    shapes = [
        (given, tuple(size if size > 0 else 1 for size in artifact.input.shape), "in"),
        (ran.output_shape, wanted, "out"),
    ]
    wrong = [f"{got} {side}, the manifest says {said}" for got, said, side in shapes if got != said]
    types = (ran.input_dtype, ran.output_dtype), (artifact.input.dtype, artifact.output.dtype)
    if types[0] != types[1]:
        wrong.append(f"{types[0][0]} in and {types[0][1]} out, the manifest says {types[1][0]} and {types[1][1]}")
    right = f"{ran.input_dtype} {given} in, {ran.output_dtype} {ran.output_shape} out"
    return ran, [
        FileCheck(f"loads and runs{suffix}", True, f"{images} random images in {ran.engine} {ran.version}"),
        FileCheck(f"shapes and types{suffix}", not wrong, "; ".join(wrong) or right),
        FileCheck(f"finite{suffix}", ran.finite, "all answers are" if ran.finite else "NaN or infinity in the answers"),
    ]


def _checked(name: str, look: Callable[[], FileCheck]) -> FileCheck:
    """Returns the check from ``look``; a file that cannot be read fails it."""
    try:
        return look()
    except MissingExtraError:
        raise
    except ArtifactError as error:
        return FileCheck(name, False, str(error))


def _differences(own: Ran | None, other: Ran) -> tuple[float | None, float | None]:
    if own is None or own.logits is None or other.logits is None or own.output_shape != other.output_shape:
        return None, None
    a, b = np.array(own.logits), np.array(other.logits)
    if a.shape[-1] == 0:
        return None, None
    agree: Any = (a.argmax(axis=1) == b.argmax(axis=1)).mean()
    return float(np.abs(a - b).max()), float(agree)
