"""The pictures that settings name, and those of an existing run, which are loaded with its splits and classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.data.class_order import reordered
from compress.data.data_list import list_data
from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.model.folder import Task
from pocketvit.settings import RunSettings
from runtime import Progress, silent

from .runfolder import RunFolder, check_list


def data_of_settings(settings: RunSettings, progress: Progress = silent) -> Dataset:
    """Loads the pictures that settings name, split and with their order of classes.

    Args:
        settings: the settings.
        progress: called while a folder's pictures are checked.

    Raises:
        DataError: the data is unknown, missing or too small.
    """
    return load_data(
        settings.data,
        seed=settings.seed,
        train_limit=settings.train_limit,
        skip_bad=settings.skip_bad,
        class_order=settings.class_order,
        class_map=Path(settings.class_map).expanduser() if settings.class_map else None,
        mirror=settings.mirror,
        labels=settings.uses_labels,
        progress=progress,
    )


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
