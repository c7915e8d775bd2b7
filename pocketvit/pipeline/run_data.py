"""The pictures of a run that is there: loaded as it had them, checked, and what was noticed of them kept in its log."""

from __future__ import annotations

from collections.abc import Sequence

from compress.data.class_order import reordered
from compress.data.data_list import list_data
from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.model.folder import Task
from pocketvit.settings import RunSettings
from runtime import Progress, silent

from .checks import Checked
from .runfolder import RunFolder, check_list


def data_of_run(folder: RunFolder, told: RunSettings, task: Task, progress: Progress = silent) -> Dataset:
    """Loads the pictures of a run, split as they were, with its order of classes.

    Args:
        folder: of the run.
        told: its settings; ``data`` may be where the pictures lie now.
        task: of one of its models.
        progress: told while a folder's pictures are checked.

    Raises:
        DataError: the data is not there.
        RunFolderError: it has changed since the run was begun.
    """
    data = load_data(
        told.data,
        seed=task.split_seed,
        train_limit=task.train_limit,
        skip_bad=told.skip_bad,
        mirror=told.mirror,
        progress=progress,
    )
    if sorted(data.class_names) == sorted(task.class_names):
        data = reordered(data, task.class_names)
    check_list(folder, folder.data, list_data(data))
    return data


def keep_notes(folder: RunFolder, data: Dataset, checked: Sequence[Checked | None] = ()) -> None:
    """Writes down in the run's log what was found of the data, and how a checkpoint was judged.

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
