"""The pictures of an existing run: loaded with its splits and classes, checked, and described in its log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress.data.class_order import reordered
from compress.data.data_list import list_data
from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.model.folder import Task
from pocketvit.settings import RunSettings
from runtime import Progress, silent

from .checks import Checked
from .runfolder import RunFolder, check_list


def data_of_run(folder: RunFolder, settings: RunSettings, task: Task, progress: Progress = silent) -> Dataset:
    """Loads the pictures of a run with its splits and its order of classes.

    Args:
        folder: the run.
        settings: the run's settings; ``data`` may name the place that the pictures were moved to.
        task: the task of one of its models.
        progress: called while a folder's pictures are checked.

    Raises:
        DataError: the data is missing.
        RunFolderError: the data has changed since the run was begun.
    """
    data = load_data(
        settings.data,
        seed=task.split_seed,
        train_limit=task.train_limit,
        skip_bad=settings.skip_bad,
        mirror=settings.mirror,
        labels=settings.uses_labels,
        progress=progress,
    )
    if not settings.uses_labels:
        data = replace(data, class_names=task.class_names)
    if sorted(data.class_names) == sorted(task.class_names):
        data = reordered(data, task.class_names)
    check_list(folder, folder.data, list_data(data))
    return data


def keep_notes(folder: RunFolder, data: Dataset, checked: Sequence[Checked | None] = ()) -> None:
    """Logs remarks on the data, and the scores of checkpoints.

    Raises:
        StorageError: the log cannot be written.
    """
    for note in data.notes:
        folder.log("data", text=note)
    for note in data.warnings:
        folder.log("warning", text=note)
    for own in checked:
        if own is not None:
            folder.log("checked", what=own.what, images=own.images, top1=own.top1, chance=own.chance)
            for text in own.warnings:
                folder.log("warning", text=text)
