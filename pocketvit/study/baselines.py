"""The fine-tuned model that several cells start from: trained once, and given to each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from compress.model.hub.place import is_place
from pocketvit.distill_settings import DistillSettings
from pocketvit.jobs.distilling import keep_lesson
from pocketvit.options import run_options
from pocketvit.pipeline.runfolder import adopt_baseline, claim
from pocketvit.settings import EXPORT_PANEL, PRUNING_PANEL, RunSettings
from runtime import Progress, encode, silent

_RECOVERY = frozenset({"recover", "distill", "distill_methods", "distill_weight", "temperature", "method_settings"})


def baseline_settings(settings: RunSettings) -> RunSettings:
    """Returns the settings that the fine-tuned model depends on; pruning, recovery and export have their defaults."""
    panels = (PRUNING_PANEL, EXPORT_PANEL)
    later = {path[0] for own in run_options().values() if own.option.panel in panels for path in own.paths}
    plain = RunSettings()
    return replace(settings, **{name: getattr(plain, name) for name in later | _RECOVERY})


def baseline_key(settings: RunSettings, lesson: DistillSettings | None) -> str | None:
    """Returns the key under which cells share a fine-tuned model; None for a cell that shares none.

    A student that is trained alone to be compared with is that very model.

    Args:
        settings: settings of the cell.
        lesson: settings of its distillation; None for other cells.
    """
    # weights that know the classes are not fine-tuned, and their students are trained by another recipe
    if lesson is not None and (not lesson.alone or settings.checkpoint or is_place(settings.model)):
        return None
    body = encode(baseline_settings(settings))
    del body["method_settings"]  # empty here, and absent when earlier studies made their keys
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def train_baseline(root: Path, progress: Progress = silent) -> None:
    """Trains the model of a folder that ``begin`` made, or goes on with it.

    Raises:
        PocketVitError: see ``fine_tune_stage``.
    """
    from compress.data.data_list import list_data
    from pocketvit.pipeline.job import prepare
    from pocketvit.pipeline.runfolder import RunFolder, read_settings
    from pocketvit.pipeline.stages import fine_tune_stage

    settings = read_settings(RunFolder(root))
    job = prepare(settings, progress)
    with claim(root, settings, resume=True, force=False, data=list_data(job.data)) as folder:
        fine_tune_stage(job, folder, progress)


def begin(
    root: Path, settings: RunSettings, lesson: DistillSettings | None = None, baseline: Path | None = None
) -> None:
    """Makes a run's folder as its command would, and puts the finished fine-tuned model into it.

    Args:
        root: the run's folder.
        settings: of the run.
        lesson: settings of its distillation.
        baseline: folder of the fine-tuned model.

    Raises:
        RunFolderError: the folder was made with other settings, or another process writes to it.
        ArtifactError: ``baseline`` is not finished.
        StorageError: there is no space, or no permission to write.
    """
    with claim(root, settings, resume=True, force=False) as folder:
        if lesson is not None:
            keep_lesson(folder, lesson)
        if baseline is None or (folder.baseline / "metrics.json").is_file():
            return
        adopt_baseline(folder, baseline)
