"""The fine-tuned model that several cells start from: trained once, and given to each."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path

from pocketvit.distill_settings import DistillSettings
from pocketvit.jobs.distilling import keep_lesson
from pocketvit.pipeline.runfolder import claim
from pocketvit.settings import RunSettings
from runtime import METRICS_DOCUMENT, Progress, encode, silent, storage_errors

_LATER = frozenset(
    (
        *("budget", "cost", "search", "latency_precision", "latency_threads", "profiles", "tree", "tas", "group_sizes"),
        *(
            "importance",
            "importance_images",
            "sparse",
            "reconstruct",
            "distill",
            "distill_methods",
            "distill_weight",
            "temperature",
        ),
        *("recover", "kinds", "calibration_images", "verify_images", "min_agreement", "made_for", "max_drop"),
        *("int8_recipe", "qat_epochs", "qat_from", "micro_flash", "micro_ram"),
    )
)
"""Settings that act after the fine-tuning, or on something else; any other is taken to change it."""


def baseline_settings(settings: RunSettings) -> RunSettings:
    """Returns the settings that the fine-tuned model follows from, all others as they are by default."""
    plain = RunSettings()
    later = {own.name: getattr(plain, own.name) for own in fields(RunSettings) if own.name in _LATER}
    return replace(settings, **later)


def baseline_key(settings: RunSettings, told: DistillSettings | None) -> str | None:
    """Returns what a cell's fine-tuned model is known by; none where it is one of its own.

    A student that is trained alone to be compared with is that very model.

    Args:
        settings: of the cell.
        told: of its distillation; none for other cells.
    """
    # weights that know the classes are not fine-tuned, and their students are trained by another recipe
    if told is not None and (not told.alone or settings.checkpoint):
        return None
    text = json.dumps(encode(baseline_settings(settings)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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


def begin(root: Path, settings: RunSettings, told: DistillSettings | None = None, baseline: Path | None = None) -> None:
    """Makes a run's folder as its command would, and puts the finished fine-tuned model into it.

    Args:
        root: the run's folder.
        settings: of the run.
        told: of its distillation.
        baseline: folder of the fine-tuned model.

    Raises:
        RunFolderError: the folder was made with other settings, or another process writes to it.
        ArtifactError: ``baseline`` is not finished.
        StorageError: there is no space, or no permission to write.
    """
    with claim(root, settings, resume=True, force=False) as folder:
        if told is not None:
            keep_lesson(folder, told)
        if baseline is None or (folder.baseline / "metrics.json").is_file():
            return
        METRICS_DOCUMENT.read(baseline / "metrics.json")
        with storage_errors(folder.root):
            # what a killed training of its own left there is of no more use
            shutil.rmtree(folder.baseline, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder.root, prefix=".export-") as scratch:
                copy = Path(scratch) / "baseline"
                shutil.copytree(baseline, copy, ignore=shutil.ignore_patterns("training.safetensors", ".*"))
                copy.replace(folder.baseline)
