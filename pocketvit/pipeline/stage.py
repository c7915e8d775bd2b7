"""What all stages share: their start and end in the log, the files of a finished stage, and checks of disk space."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.data.splits import stratified
from compress.evaluate import Score
from compress.model.coordinates import Coordinates
from compress.model.folder import read_model, save_model
from compress.model.vit import SlicedViT
from runtime import (
    METRICS_DOCUMENT,
    ArtifactError,
    EpochRecord,
    ModelMetrics,
    Progress,
    ShapePlan,
    StorageError,
    if_long,
    macs,
    params,
    silent,
)

from .job import PreparedRun
from .label_free import NO_CLASSES, NO_LABELS
from .runfolder import RunFolder
from .scoring import compare_with_whole, score_finished

_SPARE_BYTES = 64 * 2**20
_WEIGHT_BYTES = 4

TRAINED_COPIES = 12
"""Most copies of a model's weights on disk during a run: models, their training states and files."""


def finished(folder: Path) -> SlicedViT | None:
    """Returns the model of a finished stage, whose metrics are written last; None for another stage."""
    try:
        METRICS_DOCUMENT.read(folder / "metrics.json")
        model = read_model(folder)
        (folder / "training.safetensors").unlink(missing_ok=True)
        return model
    except ArtifactError:
        return None


def save_stage(
    folder: Path,
    model: SlicedViT,
    job: PreparedRun,
    epochs: tuple[EpochRecord, ...],
    progress: Progress = silent,
    whole: SlicedViT | None = None,
    back: Coordinates | None = None,
) -> None:
    """Writes a stage's model and then its metrics.

    Args:
        folder: the folder of the stage.
        model: the model.
        job: the run.
        epochs: records of the training that made it.
        progress: called as images are scored.
        whole: the model that it was made of, to compare it with; None for the whole model itself.
        back: the map of the model's coordinates into those of the whole model; None where they are
            the same. There is no cosine without it where the widths differ.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    splits = {"test": job.data.test, "held-out": job.data.held_out}
    test, held_out = (_score(job, model, indices, progress, name) for name, indices in splits.items())
    likeness = [
        None if whole is None else compare_with_whole(job, model, whole, indices, back, progress, name)
        for name, indices in splits.items()
    ]
    save_model(folder, model, job.task)
    if back is not None:
        back.write(folder)
    metrics = ModelMetrics(
        params=params(model.plan),
        macs=macs(model.plan),
        size_bytes=(folder / "model.safetensors").stat().st_size,
        top1=test.top1 if test else None,
        test_images=test.images if test else 0,
        held_out_top1=held_out.top1 if held_out else None,
        epochs=epochs,
        top1_reason=NO_CLASSES.format(job.plan.output_kind) if job.plan.is_vector else None if test else NO_LABELS,
        test_whole=likeness[0],
        held_out_whole=likeness[1],
    )
    METRICS_DOCUMENT.write(folder / "metrics.json", metrics)
    (folder / "training.safetensors").unlink(missing_ok=True)


def _score(
    job: PreparedRun, model: SlicedViT, indices: npt.NDArray[np.int64], progress: Progress, name: str
) -> Score | None:
    """Returns the score of a model on a split; None without labels."""
    if not job.labelled:
        return None
    spec, some = job.task.preprocessing, _some(job, indices)
    return score_finished(model, job.data, some, spec, if_long(progress), f"score {name}")


def log_notes(folder: RunFolder, job: PreparedRun) -> None:
    """Writes the notes on the checkpoint into the log."""
    for note in job.notes:
        folder.log("note", text=note)


def _some(job: PreparedRun, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the images that top-1 is measured on: all, or ``eval_limit`` of them, every class with its share."""
    limit = job.settings.eval_limit
    if not limit:
        return indices
    return np.sort(stratified(job.data.labels, indices, limit, np.random.default_rng([job.settings.seed, 5])))


def check_space(root: Path, plan: ShapePlan, copies: int = TRAINED_COPIES) -> None:
    """Refuses to start work that the disk cannot hold.

    Args:
        root: the run's folder.
        plan: plan of the model that is written.
        copies: most copies of its weights at one time.

    Raises:
        StorageError: there is not enough space for the model's files.
    """
    check_written_bytes(root, written_bytes(plan, copies))


def written_bytes(plan: ShapePlan, copies: int) -> int:
    """Returns the bytes that ``copies`` of a model's weights take on disk."""
    return copies * _WEIGHT_BYTES * params(plan)


def export_copies(kinds: Sequence[str]) -> int:
    """Returns the copies of the weights during an export: one for each kind, the model, and one unfinished file."""
    return len(kinds) + 2


def check_written_bytes(root: Path, needed: int) -> None:
    """Refuses to start work that writes more than fits on the disk.

    Args:
        root: the folder that is written to; it need not exist.
        needed: bytes that the work writes.

    Raises:
        StorageError: less than ``needed`` and a small reserve is free.
    """
    there = next(place for place in (root.absolute(), *root.absolute().parents) if place.is_dir())
    needed, free = needed + _SPARE_BYTES, shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"There is not enough space in {root}",
            expected=f"{needed / 1e6:.0f} MB free",
            got=f"{free / 1e6:.0f} MB",
            fix="Free some disk space or choose another folder with --runs",
        )


@contextmanager
def stage(folder: RunFolder, name: str) -> Iterator[None]:
    """Logs the start of the block and, unless it raises, its end."""
    started = time.monotonic()
    folder.log("started", stage=name)
    yield
    folder.log("finished", stage=name, seconds=round(time.monotonic() - started, 3))
