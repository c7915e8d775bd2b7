"""The GPU part of ``pocketvit verify``: compares a file's answers on the CPU, on the GPU path and of its float file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.inspect.against.comparison_images import images_for
from export.inspect.check_file import FileCheck, Verification
from runtime import (
    Artifact,
    ArtifactError,
    GpuParity,
    MeasurementError,
    Progress,
    UnsupportedTargetError,
    manifest_path,
    read_artifact,
    silent,
)
from runtime.formats import APP_SUFFIX, format_of, model_files
from runtime.gpu.adapter import Adapter
from runtime.gpu.drivers import GpuDriver
from runtime.gpu.run import GpuWorker
from runtime.session import logits_of_probabilities

from .compare import file_kind, judge_gpu

_SEED = 0


def check_runs_on_gpu(path: Path) -> None:
    """Checks that LiteRT's GPU path reads files of this format.

    Raises:
        ArtifactError: it is no model file by its name.
        UnsupportedTargetError: it does not.
    """
    if format_of(path).name != "tflite":
        raise UnsupportedTargetError(f"{path.name} does not run on LiteRT's GPU path", expected="a .tflite file")


def verified_on_gpu(
    found: Verification,
    path: Path,
    driver: GpuDriver,
    adapter: Adapter,
    progress: Progress = silent,
) -> Verification:
    """Returns the checks of a file with those on the GPU path.

    Args:
        found: the checks on the CPU.
        path: the file, with its manifest.
        driver: the graphics driver.
        adapter: the adapter that LiteRT chooses with it.
        progress: called after every image.

    Raises:
        ArtifactError: the manifest is missing or damaged.
    """
    artifact = read_artifact(path, verify=False)
    images, source = images_to_run(path, artifact, found.images)
    name = "runs on the GPU path"
    with GpuWorker(driver) as worker:
        try:
            answers = worker.answers(path, images, progress)
        except (UnsupportedTargetError, ArtifactError, MeasurementError) as error:
            return replace(found, checks=(*found.checks, FileCheck(name, False, str(error))))
        sibling = None if artifact.calibration is None else float_file(path, artifact)
        reference = None if sibling is None else worker.cpu_answers(sibling, images)
    if artifact.app is not None and artifact.app.scores == "probabilities":
        # the SQNR that the manifest records is that of logits
        cpu, on_gpu = (logits_of_probabilities(own) for own in (answers.cpu, answers.gpu))
        answers = replace(answers, cpu=cpu, gpu=on_gpu)
        reference = None if reference is None else logits_of_probabilities(reference)
    gpu = judge_gpu(file_kind(artifact), answers, adapter, reference)
    ran = FileCheck(name, True, f"{gpu.images} images ({source}) on {adapter.described}")
    right = FileCheck("right on the GPU path", gpu.wrong is None, gpu.wrong or _right(gpu, sibling))
    return replace(found, checks=(*found.checks, ran, right), gpu=gpu)


def images_to_run(path: Path, artifact: Artifact, count: int) -> tuple[npt.NDArray[np.float32], str]:
    """Returns test images of the run that a file belongs to, at most 100, or random ones, and where they come from.

    Args:
        path: the file.
        artifact: its manifest.
        count: number of images at most.

    Returns:
        Preprocessed images ``(N, H, W, C)`` float32, and their source in words.

    Raises:
        ArtifactError: the run's file of test images is damaged.
    """
    spec = artifact.preprocessing
    shape = (count, spec.height, spec.width, spec.channels)
    own = images_for(path, None, shape)
    if not own.real and artifact.app is not None:
        return np.random.default_rng(_SEED).random(shape, dtype=np.float32), own.source
    if not own.real:
        return np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32), own.source
    chosen = np.linspace(0, len(own.values) - 1, min(count, len(own.values))).round().astype(int)
    return own.values[chosen], own.source


def float_file(path: Path, artifact: Artifact) -> Path | None:
    """Returns the float32 ``.tflite`` file of the same weights in the folder of a file, or None.

    Of a file for apps, it is a file for apps with the same image and scores.

    Args:
        path: the file.
        artifact: its manifest.
    """
    others = model_files(path.parent) if artifact.app is None else sorted(path.parent.glob(f"*{APP_SUFFIX}"))
    for other in others:
        if other == path or format_of(other).name != "tflite" or not manifest_path(other).is_file():
            continue
        try:
            own = read_artifact(other)
        except ArtifactError:
            continue
        alike = own.provenance.weights_sha256 == artifact.provenance.weights_sha256
        alike &= own.precision == "fp32" and own.preprocessing == artifact.preprocessing
        if artifact.app is not None:
            same_image = own.input == artifact.input
            alike &= same_image and own.app is not None and own.app.scores == artifact.app.scores
        if alike:
            return other
    return None


def _right(gpu: GpuParity, sibling: Path | None) -> str:
    """Returns the figure by which the answers were found right."""
    if sibling is None:
        return f"the least cosine to the CPU's outputs is {gpu.cosine:.6f}"
    gpu_db, cpu_db = ("exact" if own is None else f"{own:.1f} dB" for own in (gpu.sqnr_db, gpu.cpu_sqnr_db))
    return f"SQNR against {sibling.name}: {gpu_db} on the GPU, {cpu_db} on the CPU"
