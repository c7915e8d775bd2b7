"""What all stages share: their beginning and end in the log, and what a finished one leaves behind."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress import SlicedViT, read_model, save_model, some_of_each
from runtime import (
    ArtifactError,
    EpochRecord,
    ModelMetrics,
    Progress,
    StorageError,
    if_long,
    macs,
    params,
    read_metrics,
    silent,
    write_metrics,
)

from .job import Job
from .runfolder import RunFolder
from .scoring import score_finished

_SPARE_BYTES = 64 * 2**20


def finished(folder: Path) -> SlicedViT | None:
    """Returns the model of a stage that ran to its end; its metrics are written last."""
    try:
        read_metrics(folder / "metrics.json")
        model = read_model(folder)
        (folder / "training.safetensors").unlink(missing_ok=True)
        return model
    except ArtifactError:
        return None


def save_stage(
    folder: Path, model: SlicedViT, job: Job, epochs: tuple[EpochRecord, ...], progress: Progress = silent
) -> None:
    """Writes a stage's model and, last, its metrics.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    spec, limit = job.task.preprocessing, job.settings.eval_limit
    splits = {"test": job.data.test, "held-out": job.data.held_out}
    test, held_out = (
        score_finished(
            model,
            job.data,
            some_of_each(job.data.labels, indices, limit, job.settings.seed),
            spec,
            if_long(progress),
            f"score {name}",
        )
        for name, indices in splits.items()
    )
    save_model(folder, model, job.task)
    metrics = ModelMetrics(
        params=params(model.plan),
        macs=macs(model.plan),
        size_bytes=(folder / "model.safetensors").stat().st_size,
        top1=test.top1,
        test_images=test.images,
        held_out_top1=held_out.top1,
        epochs=epochs,
    )
    write_metrics(folder / "metrics.json", metrics)
    (folder / "training.safetensors").unlink(missing_ok=True)


def check_space(root: Path, model: SlicedViT) -> None:
    """Refuses to start hours of work that the disk cannot hold.

    Raises:
        StorageError: there is not enough space for the model's files.
    """
    weights = sum(value.numel() * 4 for value in model.state_dict().values())
    needed = 12 * weights + _SPARE_BYTES
    free = shutil.disk_usage(root).free
    if free < needed:
        raise StorageError(
            f"There is not enough space in {root} for this run",
            expected=f"{needed / 1e6:.0f} MB free",
            got=f"{free / 1e6:.0f} MB",
            fix="Free some disk space or choose another folder with --runs",
        )


@contextmanager
def stage(folder: RunFolder, name: str) -> Iterator[None]:
    """Logs when the work in the block started and, if it did, ended."""
    started = time.monotonic()
    folder.log("started", stage=name)
    yield
    folder.log("finished", stage=name, seconds=round(time.monotonic() - started, 3))
