"""The GPU check of an export: a few test images on every ``.tflite`` file, on the CPU and on LiteRT's GPU path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from export.formats import kind_of
from export.reference import Reference
from runtime import Artifact, GpuParity, PocketVitError, Progress, message, write_artifact
from runtime.gpu.drivers import CHOICE, gpu_allowed
from runtime.gpu.run import GpuCrashError, GpuWorker, find_gpu

from .compare import file_kind, judge_gpu

STAGE = "GPU check"

NO_DRIVER = "There was no graphics driver that LiteRT can use."
TURNED_OFF = f"{CHOICE} was set to none."

_MACS = 5e9
_IMAGES = (4, 32)
_SECONDS, _SILENCE_S = 60.0, 180.0


def checked_on_gpu(
    artifacts: Sequence[Artifact],
    folder: Path,
    take: Callable[[int], Reference],
    progress: Progress,
) -> tuple[Artifact, ...]:
    """Returns the manifests with ``parity.gpu``, and writes those that changed.

    A file that is wrong on the GPU stays released for the CPU, with a warning. Files that were checked before, and
    files that LiteRT does not run, stay as they are.

    Args:
        artifacts: manifests of released files.
        folder: of the files.
        take: returns so many test images with the torch model's outputs.
        progress: called after every image, with the warnings as messages.
    """
    todo = [own for own in artifacts if _is_unchecked(own)]
    found = _found(todo, folder, take, progress) if todo else {}
    done = []
    for artifact in artifacts:
        gpu = found.get(artifact.file)
        if gpu is not None and gpu != artifact.parity.gpu:
            artifact = replace(artifact, parity=replace(artifact.parity, gpu=gpu))
            write_artifact(folder / artifact.file, artifact)
        done.append(artifact)
    return tuple(done)


def images_checked(artifact: Artifact) -> int:
    """Returns the number of images that a file runs on a GPU driver: fewer for larger models, 4 to 32."""
    least, most = _IMAGES
    return most if artifact.macs is None else max(least, min(most, int(_MACS / artifact.macs)))


def _is_unchecked(artifact: Artifact) -> bool:
    """Returns whether LiteRT runs a file, and it has not been run on a GPU driver yet."""
    kind, gpu = kind_of(artifact), artifact.parity.gpu
    if artifact.format != "tflite" or (kind is not None and kind.run is not None):
        return False
    return gpu is None or gpu.reason is not None


def _found(
    todo: Sequence[Artifact], folder: Path, take: Callable[[int], Reference], progress: Progress
) -> dict[str, GpuParity]:
    """Returns the comparison of each file."""
    driver = find_gpu() if gpu_allowed() else None
    if driver is None:
        reason = NO_DRIVER if gpu_allowed() else TURNED_OFF
        return {artifact.file: GpuParity(reason=reason) for artifact in todo}
    adapter, found = driver[1], {}
    seen = GpuParity(driver=adapter.name, software=adapter.software, arithmetic=adapter.arithmetic)
    with GpuWorker(driver[0], timeout_s=_SILENCE_S) as worker:
        for artifact in todo:
            reference = take(images_checked(artifact))
            try:
                answers = worker.answers(folder / artifact.file, reference.inputs, progress, _SECONDS)
            except GpuCrashError as error:
                found[artifact.file] = replace(seen, wrong=f"{error}")
                message(progress, f"{artifact.file} CRASHES ON GPUs", f"{error} It is released for the CPU alone")
                continue
            except PocketVitError as error:
                found[artifact.file] = replace(seen, reason=str(error))
                message(progress, STAGE, f"{artifact.file} was not run on a GPU: {error}")
                continue
            own = found[artifact.file] = judge_gpu(file_kind(artifact), answers, adapter, reference.logits)
            if own.wrong is not None:
                message(progress, f"{artifact.file} IS WRONG ON GPUs", f"{own.wrong} It is released for the CPU alone")
    return found
