"""What a cell of distillation is told, as the command itself would say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any, cast

from compress import Distillation, DistillMethod, check_lesson, load_model
from pocketvit.distill_command import _block_pairs, _whole_numbers
from pocketvit.distill_settings import DistillSettings
from pocketvit.distilling import _keep_lesson, _pictures, _teacher
from pocketvit.job import Job
from pocketvit.options import name_values, plain_value, run_settings
from pocketvit.runfolder import RunFolder
from pocketvit.settings import RunSettings
from runtime import Progress, silent

_LESSON = ("feature_weight", "distance_weight", "angle_weight", "self_weight", "online", "mutual_weight")
_TOLD = ("teacher", "student", "unlabelled", "alone", "teacher_img_size", "teacher_pretrained", "teacher_checkpoint")


def distill_settings(values: Mapping[str, Any]) -> tuple[RunSettings, DistillSettings]:
    """Returns the settings that ``pocketvit distill`` makes of its parameters.

    Args:
        values: of each parameter of the command.

    Raises:
        PlanError: a value is out of range, or two contradict each other.
    """
    shared = {name: values[name] for name in signature(run_settings).parameters if name in values}
    settings = run_settings(**shared)
    online = values["online"]
    lesson = Distillation(
        methods=cast(tuple[DistillMethod, ...], tuple(part.strip() for part in values["method"].split(","))),
        weight=settings.distill_weight,
        temperature=settings.temperature,
        blocks=_block_pairs(values["blocks"]),
        self_blocks=_whole_numbers("--self-blocks", values["self_blocks"]),
        teacher_lr=values["teacher_lr"] if online else None,
        **{name: values[name] for name in _LESSON},
    )
    told = DistillSettings(
        distillation=lesson,
        teacher_args={key: plain_value(text) for key, text in name_values("--teacher-arg", values["teacher_arg"])},
        teacher_epochs=values["teacher_epochs"],
        teacher_train_lr=None if online else values["teacher_lr"],
        **{name: values[name] for name in _TOLD},
    )
    return replace(settings, recover=settings.fine_tune), told


def check_distillation(job: Job, told: DistillSettings, progress: Progress = silent) -> None:
    """Checks before any work that teacher, student and pictures are there and fit each other.

    Raises:
        PocketVitError: they do not.
    """
    if told.student:
        return
    _pictures(job, told, progress)
    student = load_model(job.spec, job.plan.num_classes, job.settings.seed)
    check_lesson(told.distillation, _teacher(job, told), student)


def keep_lesson(folder: RunFolder, told: DistillSettings) -> None:
    """Writes into a run folder what its distillation is told, so that it may be given its baseline.

    Raises:
        RunFolderError: the folder was distilled otherwise.
    """
    _keep_lesson(folder, told)
