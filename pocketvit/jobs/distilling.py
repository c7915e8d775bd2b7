"""Distillation into a run folder: the teacher, the student without it, and the student with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from compress.data.data_list import list_data
from compress.data.dataset import Dataset
from compress.data.unlabelled import with_unlabelled
from compress.distill.loss import check_distillation
from compress.distill.teacher_folder import (
    TeacherRecord,
    open_teacher,
    read_teacher,
    record_of,
    save_teacher,
    trained_teacher,
)
from compress.distill.teachers import Teacher, TimmSpec, teacher_score
from compress.model.folder import read_model, read_task, save_model
from compress.model.vit import SlicedViT
from compress.recipe import SCRATCH, TrainRecipe
from compress.train.fit import fit, fit_network
from device_bench.report.summary import RunSummary, summarise
from pocketvit.distill_settings import DistillSettings
from pocketvit.pipeline.bases import whole_model
from pocketvit.pipeline.checks import Checked, check_fine_tuned, check_teacher, keep_notes
from pocketvit.pipeline.job import PreparedRun, prepare
from pocketvit.pipeline.runfolder import RunFolder, claim, keep_list, read_settings
from pocketvit.pipeline.stage import check_space, finished, log_notes, save_stage, stage
from pocketvit.settings import RunSettings
from runtime import (
    ArtifactError,
    Document,
    EpochRecord,
    ModelError,
    PlanError,
    Progress,
    RunFolderError,
    check_is,
    encode,
    if_long,
    silent,
)

DISTILL_DOCUMENT, FILE = Document("pocketvit.distill", 1, DistillSettings), "distill.json"
_STUDENT = (
    *("data", "train_limit", "skip_bad", "class_order", "class_map", "mirror", "seed"),
    *("model", "img_size", "patch_size", "in_chans", "model_args", "pretrained", "checkpoint", "reset_head"),
    "text_embeddings",
    *("mean", "std", "resize", "crop_pct", "interpolation"),
)
"""Settings that the run folder of a student decides."""

_TEACHER_LR = 1e-4
"""Peak learning rate of a teacher that starts from published weights; its classifier may be fresh."""


@dataclass(frozen=True)
class Distilled:
    """The result of a distillation.

    Attributes:
        summary: the run's table: ``baseline`` is the student without the teacher, ``sliced`` with it.
        teacher: the teacher; None without one.
    """

    summary: RunSummary
    teacher: TeacherRecord | None


def distill(
    settings: RunSettings,
    lesson: DistillSettings,
    root: Path | str,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Distilled:
    """Teaches a student in folder ``root``, which ``export_run`` takes.

    Args:
        settings: model, data and training (``fine_tune``).
        lesson: teacher, student and methods.
        root: the run's folder.
        resume: continue a run that was stopped.
        force: replace an existing run.
        progress: called as the work advances.

    Raises:
        PocketVitError: see ``prepare``, ``open_teacher`` and ``fit``.
    """
    check_is(settings, RunSettings)
    check_is(lesson, DistillSettings)
    settings, student = _of_student(settings, lesson)
    if not settings.uses_labels:
        raise PlanError(
            "The student and its baseline learn from labels, too, and this data has none",
            expected="--data with labels",
            got=settings.data,
            fix="Add pictures without labels with --unlabelled DIR, or recover by a whole model with pocketvit run",
        )
    job = prepare(settings, progress)
    if student is not None:
        job = replace(job, plan=student.plan, task=read_task(_sliced(lesson.student)), fine_tuned=False)
    data = pictures_of(job, lesson, progress)
    teacher = teacher_of(job, lesson)
    student = student or whole_model(job)
    check_distillation(lesson.distillation, teacher, student)
    checked = _check(job, lesson, teacher, Path(root), resume, progress)
    with claim(Path(root), settings, resume=resume, force=force, data=list_data(job.data)) as folder:
        keep_notes(folder, data, checked)
        if lesson.unlabelled:
            keep_list(folder, folder.unlabelled, list_data(data))
        keep_lesson(folder, lesson)
        if not (folder.baseline / "metrics.json").is_file():
            check_space(folder.root, student.plan)
        if teacher is not None:
            teacher = _teacher_stage(job, lesson, teacher, folder, progress)
        _baseline_stage(job, lesson, student, folder, progress)
        _student_stage(job, lesson, (teacher, student), data, folder, progress)
        record = read_teacher(_place(folder)) if teacher is not None else None
    return Distilled(summarise(folder.root), record)


def _check(
    job: PreparedRun, lesson: DistillSettings, teacher: Teacher | None, root: Path, resume: bool, progress: Progress
) -> list[Checked | None]:
    """Scores student and teacher where they count as fine-tuned; a continued run was checked before."""
    if resume and RunFolder(root).baseline.is_dir():
        return []
    taught = [check_fine_tuned(job, progress)]
    return taught if teacher is None or lesson.learns else [*taught, check_teacher(teacher, job, progress)]


def _of_student(settings: RunSettings, lesson: DistillSettings) -> tuple[RunSettings, SlicedViT | None]:
    """Returns the settings with the data and the model of the student's run, and the student."""
    if not lesson.student:
        return settings, None
    plain = RunSettings()
    given = [name for name in _STUDENT if getattr(settings, name) != getattr(plain, name)]
    if given:
        raise PlanError(
            "--student brings its model and its data along", expected=f"no --{given[0].replace('_', '-')} with it"
        )
    theirs = read_settings(RunFolder(Path(lesson.student)))
    own = {name: getattr(theirs, name) for name in _STUDENT}
    return replace(settings, **own), read_model(_sliced(lesson.student))


def _sliced(student: str) -> Path:
    return RunFolder(Path(student)).sliced


def pictures_of(job: PreparedRun, lesson: DistillSettings, progress: Progress = silent) -> Dataset:
    """Returns the run's pictures, and those that the teacher labels.

    Raises:
        DataError: their folder does not exist or holds none, or one cannot be decoded.
    """
    if not lesson.unlabelled:
        return job.data
    folder = Path(lesson.unlabelled).expanduser()
    return with_unlabelled(job.data, folder, skip_bad=job.settings.skip_bad, progress=progress)


def teacher_of(job: PreparedRun, lesson: DistillSettings) -> Teacher | None:
    """Returns the teacher before any training; None without one.

    Raises:
        PocketVitError: see ``open_teacher``.
        ModelError: the settings train or change a teacher that cannot be trained or changed.
        PlanError: the settings give the teacher channels that images cannot have.
    """
    if not lesson.teacher:
        return None
    teacher = open_teacher(
        lesson.teacher,
        job.data,
        job.task.preprocessing,
        _timm_spec(lesson),
        seed=job.settings.seed,
        learns=lesson.learns,
    )
    if lesson.teacher_epochs and teacher.spec is None:
        raise ModelError(f"The teacher {teacher.name} is trained already", fix="Leave out --teacher-epochs")
    options = ("teacher_img_size", "teacher_pretrained", "teacher_checkpoint", "teacher_args")
    given = [f"--{name.replace('_', '-').removesuffix('s')}" for name in options if getattr(lesson, name)]
    if given and (teacher.spec is None or Path(lesson.teacher).expanduser().exists()):
        raise ModelError(
            f"{given[0]} is for timm's architectures, and {lesson.teacher} is none", fix=f"Leave out {given[0]}"
        )
    return teacher


def _timm_spec(lesson: DistillSettings) -> TimmSpec:
    arguments = dict(lesson.teacher_args)
    channels = arguments.pop("in_chans", None)
    if channels not in (None, 1, 3):
        raise PlanError("Images have 1 or 3 channels", got=channels, fix="Give --teacher-arg in_chans=1 or in_chans=3")
    return TimmSpec(
        name=lesson.teacher,
        img_size=lesson.teacher_img_size,
        in_chans=None if channels is None else int(channels),
        pretrained=lesson.teacher_pretrained,
        checkpoint=Path(lesson.teacher_checkpoint).expanduser() if lesson.teacher_checkpoint else None,
        overrides=arguments,
    )


def keep_lesson(folder: RunFolder, lesson: DistillSettings) -> None:
    """Keeps the settings in ``distill.json``, and refuses to go on with other ones.

    Raises:
        RunFolderError: the run was distilled with other settings, or not at all.
        ArtifactError: ``distill.json`` is damaged.
        StorageError: ``distill.json`` cannot be written.
    """
    path = folder.root / FILE
    if path.is_file():
        before = encode(DISTILL_DOCUMENT.read(path))
        now = encode(lesson)
        changed = [f"{key} was {before[key]!r} and is now {now[key]!r}" for key in now if before[key] != now[key]]
        if changed:
            raise RunFolderError(
                f"The run {folder.root} was distilled with other settings: {'; '.join(changed)}",
                fix="Resume with the same settings, replace it with --force, or choose another --name",
            )
    elif folder.baseline.exists() or folder.sliced.exists():
        raise RunFolderError(f"The run {folder.root} was not made by distill", fix="Choose another run with --name")
    else:
        DISTILL_DOCUMENT.write(path, lesson)


def _place(folder: RunFolder) -> Path:
    return folder.root / "teacher"


def _teacher_stage(
    job: PreparedRun, lesson: DistillSettings, teacher: Teacher, folder: RunFolder, progress: Progress
) -> Teacher:
    """Trains the teacher if it has epochs, and writes its scores into ``teacher/``.

    The scores of a teacher that is trained together with the student are written after that training.
    """
    if lesson.distillation.online:
        return teacher
    place = _place(folder)
    try:
        read_teacher(place)
    except ArtifactError:
        pass
    else:
        trained = trained_teacher(place, job.data).network if lesson.teacher_epochs else teacher.network
        return replace(teacher, network=trained)
    with stage(folder, "teacher"):
        epochs: tuple[EpochRecord, ...] = ()
        if lesson.teacher_epochs and isinstance(teacher.network, nn.Module):
            network, epochs = fit_network(
                teacher.network,
                job.data,
                teacher.preprocessing,
                _teacher_recipe(job, lesson, teacher),
                **job.training(place, "teacher", progress),
            )
            teacher = replace(teacher, network=network)
        _keep_teacher(job, lesson, teacher, place, epochs, progress)
    return teacher


def _teacher_recipe(job: PreparedRun, lesson: DistillSettings, teacher: Teacher) -> TrainRecipe:
    known = teacher.spec is not None and (teacher.spec.pretrained or teacher.spec.checkpoint is not None)
    rate = lesson.teacher_train_lr or (_TEACHER_LR if known else SCRATCH.lr)
    return replace(SCRATCH, epochs=lesson.teacher_epochs, batch_size=job.fine_tune.batch_size, lr=rate, head_lr=rate)


def _keep_teacher(
    job: PreparedRun,
    lesson: DistillSettings,
    teacher: Teacher,
    place: Path,
    epochs: tuple[EpochRecord, ...],
    progress: Progress,
) -> None:
    """Writes the teacher's record and scores, and the weights of a teacher that was trained here."""
    splits = (job.data.test, job.data.held_out)
    test, held_out = (teacher_score(teacher, job.data, indices, if_long(progress)) for indices in splits)
    scores = (test, held_out)
    if lesson.learns and isinstance(teacher.network, SlicedViT):
        save_model(place, teacher.network, replace(job.task, preprocessing=teacher.preprocessing, source=teacher.name))
    kept = lesson.learns and not isinstance(teacher.network, SlicedViT)
    record = record_of(teacher, job.data, scores, online=lesson.distillation.online, epochs=epochs, kept=kept)
    save_teacher(place, record, teacher.network if kept and isinstance(teacher.network, nn.Module) else None)
    (place / "training.safetensors").unlink(missing_ok=True)


def _baseline_stage(
    job: PreparedRun, lesson: DistillSettings, student: SlicedViT, folder: RunFolder, progress: Progress
) -> None:
    """Trains the student on the labels alone, or leaves it as it is, and saves it in ``baseline/``."""
    if finished(folder.baseline) is not None:
        return
    with stage(folder, "alone"):
        log_notes(folder, job)
        epochs: tuple[EpochRecord, ...] = ()
        if lesson.alone:
            how = job.training(folder.baseline, "alone", progress)
            trained = fit(student, job.data, job.task.preprocessing, _recipe(job, lesson), **how)
            student, epochs = trained.model, trained.epochs
        save_stage(folder.baseline, student, job, epochs, progress)


def _student_stage(
    job: PreparedRun,
    lesson: DistillSettings,
    both: tuple[Teacher | None, SlicedViT],
    data: Dataset,
    folder: RunFolder,
    progress: Progress,
) -> None:
    """Trains the student with the teacher and saves it in ``sliced/``."""
    teacher, student = both
    if finished(folder.sliced) is not None:
        return
    with stage(folder, "distill"):
        trained = fit(
            student,
            data,
            job.task.preprocessing,
            _recipe(job, lesson),
            teacher=teacher,
            distillation=lesson.distillation,
            **job.training(folder.sliced, "distill", progress),
        )
        if teacher is not None and trained.teacher is not None:
            _keep_teacher(job, lesson, replace(teacher, network=trained.teacher), _place(folder), (), progress)
        by = teacher.name if teacher is not None else "its own deeper blocks"
        taught = replace(job, task=replace(job.task, source=f"{job.task.source}, taught by {by}"))
        save_stage(folder.sliced, trained.model, taught, trained.epochs, progress)


def _recipe(job: PreparedRun, lesson: DistillSettings) -> TrainRecipe:
    """Returns the recipe of both trainings of the student; weights that know the classes take that of a recovery."""
    known = lesson.student or (job.fine_tune.epochs == 0 and job.settings.fine_tune.epochs is None)
    return job.recover if known else job.fine_tune
