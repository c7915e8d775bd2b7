"""A student taught by a teacher, into a run folder: the teacher, the student without it, and the student with it."""

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
from compress.model.load import load_model
from compress.model.vit import SlicedViT
from compress.recipe import SCRATCH, TrainRecipe
from compress.train.fit import fit, fit_network
from device_bench.report.summary import RunSummary, summarise
from pocketvit.distill_settings import DistillSettings
from pocketvit.pipeline.checks import Checked, check_fine_tuned, check_teacher
from pocketvit.pipeline.job import Job, prepare
from pocketvit.pipeline.run_data import keep_notes
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
    *("mean", "std", "resize", "crop_pct", "interpolation"),
)
"""Settings that a student's run folder brings along."""

_TEACHER_LR = 1e-4
"""Peak learning rate of a teacher that starts from published weights; its classifier may be fresh."""


@dataclass(frozen=True)
class Distilled:
    """What came of it.

    Attributes:
        summary: the run's table: ``baseline`` is the student without the teacher, ``sliced`` with it.
        teacher: who taught; none without a teacher.
    """

    summary: RunSummary
    teacher: TeacherRecord | None


def distill(
    settings: RunSettings,
    told: DistillSettings,
    root: Path | str,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Distilled:
    """Teaches a student in folder ``root``, which ``export_run`` takes.

    Args:
        settings: model, data and training (``fine_tune``).
        told: who teaches what.
        root: the run's folder.
        resume: continue a run that was stopped.
        force: replace a run that is there.
        progress: told where the work is.

    Raises:
        PocketVitError: see ``prepare``, ``open_teacher`` and ``fit``.
    """
    check_is(settings, RunSettings)
    check_is(told, DistillSettings)
    settings, student = _of_student(settings, told)
    job = prepare(settings, progress)
    if student is not None:
        job = replace(job, plan=student.plan, task=read_task(_sliced(told.student)), fine_tuned=False)
    data = pictures_of(job, told, progress)
    teacher = teacher_of(job, told)
    student = student or load_model(job.spec, job.plan.num_classes, settings.seed)
    check_distillation(told.distillation, teacher, student)
    checked = _check(job, told, teacher, Path(root), resume, progress)
    with claim(Path(root), settings, resume=resume, force=force, data=list_data(job.data)) as folder:
        keep_notes(folder, data, checked)
        if told.unlabelled:
            keep_list(folder, folder.unlabelled, list_data(data))
        keep_lesson(folder, told)
        if not (folder.baseline / "metrics.json").is_file():
            check_space(folder.root, student.plan)
        if teacher is not None:
            teacher = _teacher_stage(job, told, teacher, folder, progress)
        _baseline_stage(job, told, student, folder, progress)
        _student_stage(job, told, (teacher, student), data, folder, progress)
        record = read_teacher(_place(folder)) if teacher is not None else None
    return Distilled(summarise(folder.root), record)


def _check(
    job: Job, told: DistillSettings, teacher: Teacher | None, root: Path, resume: bool, progress: Progress
) -> list[Checked | None]:
    """Scores student and teacher where they count as fine-tuned; a run that is continued was checked before."""
    if resume and RunFolder(root).baseline.is_dir():
        return []
    taught = [check_fine_tuned(job, progress)]
    return taught if teacher is None or told.learns else [*taught, check_teacher(teacher, job, progress)]


def _of_student(settings: RunSettings, told: DistillSettings) -> tuple[RunSettings, SlicedViT | None]:
    """Returns the settings with the data and the model of the run whose result is the student, and that model."""
    if not told.student:
        return settings, None
    plain = RunSettings()
    given = [name for name in _STUDENT if getattr(settings, name) != getattr(plain, name)]
    if given:
        raise PlanError(
            "--student brings its model and its data along", expected=f"no --{given[0].replace('_', '-')} beside it"
        )
    theirs = read_settings(RunFolder(Path(told.student)))
    own = {name: getattr(theirs, name) for name in _STUDENT}
    return replace(settings, **own), read_model(_sliced(told.student))


def _sliced(student: str) -> Path:
    return RunFolder(Path(student)).sliced


def pictures_of(job: Job, told: DistillSettings, progress: Progress = silent) -> Dataset:
    """Returns the job's pictures, and those that the teacher labels.

    Raises:
        DataError: their folder is not there or holds none, or one cannot be decoded.
    """
    if not told.unlabelled:
        return job.data
    folder = Path(told.unlabelled).expanduser()
    return with_unlabelled(job.data, folder, skip_bad=job.settings.skip_bad, progress=progress)


def teacher_of(job: Job, told: DistillSettings) -> Teacher | None:
    """Returns who teaches, as it is before any training; none where nobody does.

    Raises:
        PocketVitError: see ``open_teacher``.
        ModelError: it is told to be trained, or to be of another shape, and cannot be.
        PlanError: it is told to have channels that images cannot have.
    """
    if not told.teacher:
        return None
    teacher = open_teacher(
        told.teacher,
        job.data,
        job.task.preprocessing,
        _timm_spec(told),
        seed=job.settings.seed,
        learns=told.learns,
    )
    if told.teacher_epochs and teacher.spec is None:
        raise ModelError(f"The teacher {teacher.name} is trained already", fix="Leave out --teacher-epochs")
    options = ("teacher_img_size", "teacher_pretrained", "teacher_checkpoint", "teacher_args")
    given = [f"--{name.replace('_', '-').removesuffix('s')}" for name in options if getattr(told, name)]
    if given and Path(told.teacher).expanduser().exists():
        raise ModelError(
            f"{given[0]} is for timm's architectures, and {told.teacher} is none", fix=f"Leave out {given[0]}"
        )
    return teacher


def _timm_spec(told: DistillSettings) -> TimmSpec:
    arguments = dict(told.teacher_args)
    channels = arguments.pop("in_chans", None)
    if channels not in (None, 1, 3):
        raise PlanError("Images have 1 or 3 channels", got=channels, fix="Give --teacher-arg in_chans=1 or in_chans=3")
    return TimmSpec(
        name=told.teacher,
        img_size=told.teacher_img_size,
        in_chans=None if channels is None else int(channels),
        pretrained=told.teacher_pretrained,
        checkpoint=Path(told.teacher_checkpoint).expanduser() if told.teacher_checkpoint else None,
        overrides=arguments,
    )


def keep_lesson(folder: RunFolder, told: DistillSettings) -> None:
    """Keeps what was told in ``distill.json``, and refuses to go on with anything else.

    Raises:
        RunFolderError: the run was distilled otherwise, or not at all.
        ArtifactError: ``distill.json`` is damaged.
        StorageError: it cannot be written.
    """
    path = folder.root / FILE
    if path.is_file():
        before = encode(DISTILL_DOCUMENT.read(path))
        now = encode(told)
        changed = [f"{key} was {before[key]!r} and is now {now[key]!r}" for key in now if before[key] != now[key]]
        if changed:
            raise RunFolderError(
                f"The run {folder.root} was distilled otherwise: {'; '.join(changed)}",
                fix="Resume with the same settings, replace it with --force, or choose another --name",
            )
    elif folder.baseline.exists() or folder.sliced.exists():
        raise RunFolderError(f"The run {folder.root} was not made by distill", fix="Choose another run with --name")
    else:
        DISTILL_DOCUMENT.write(path, told)


def _place(folder: RunFolder) -> Path:
    return folder.root / "teacher"


def _teacher_stage(job: Job, told: DistillSettings, teacher: Teacher, folder: RunFolder, progress: Progress) -> Teacher:
    """Trains the teacher where that was asked for, and writes down how good it is, into ``teacher/``.

    One that is trained together with the student is written down when that is done.
    """
    if told.distillation.online:
        return teacher
    place = _place(folder)
    try:
        read_teacher(place)
    except ArtifactError:
        pass
    else:
        trained = trained_teacher(place, job.data).network if told.teacher_epochs else teacher.network
        return replace(teacher, network=trained)
    with stage(folder, "teacher"):
        epochs: tuple[EpochRecord, ...] = ()
        if told.teacher_epochs and isinstance(teacher.network, nn.Module):
            state = place / "training.safetensors"
            network, epochs = fit_network(
                teacher.network,
                job.data,
                teacher.preprocessing,
                _teacher_recipe(job, told, teacher),
                augmentation=job.augmentation,
                seed=job.settings.seed,
                bf16=job.bf16,
                state_path=state,
                stage="teacher",
                progress=progress,
            )
            teacher = replace(teacher, network=network)
        _keep_teacher(job, told, teacher, place, epochs, progress)
    return teacher


def _teacher_recipe(job: Job, told: DistillSettings, teacher: Teacher) -> TrainRecipe:
    known = teacher.spec is not None and (teacher.spec.pretrained or teacher.spec.checkpoint is not None)
    rate = told.teacher_train_lr or (_TEACHER_LR if known else SCRATCH.lr)
    return replace(SCRATCH, epochs=told.teacher_epochs, batch_size=job.fine_tune.batch_size, lr=rate, head_lr=rate)


def _keep_teacher(
    job: Job, told: DistillSettings, teacher: Teacher, place: Path, epochs: tuple[EpochRecord, ...], progress: Progress
) -> None:
    """Writes down who taught and how good it is, and the weights of one that was trained here."""
    splits = (job.data.test, job.data.held_out)
    test, held_out = (teacher_score(teacher, job.data, indices, if_long(progress)) for indices in splits)
    scores = (test, held_out)
    if told.learns and isinstance(teacher.network, SlicedViT):
        save_model(place, teacher.network, replace(job.task, preprocessing=teacher.preprocessing, source=teacher.name))
    kept = told.learns and not isinstance(teacher.network, SlicedViT)
    record = record_of(teacher, job.data, scores, online=told.distillation.online, epochs=epochs, kept=kept)
    save_teacher(place, record, teacher.network if kept and isinstance(teacher.network, nn.Module) else None)
    (place / "training.safetensors").unlink(missing_ok=True)


def _baseline_stage(job: Job, told: DistillSettings, student: SlicedViT, folder: RunFolder, progress: Progress) -> None:
    """Trains the student on the labels alone, or takes it as it is, into ``baseline/``."""
    if finished(folder.baseline) is not None:
        return
    with stage(folder, "alone"):
        log_notes(folder, job)
        epochs: tuple[EpochRecord, ...] = ()
        if told.alone:
            trained = fit(
                student,
                job.data,
                job.task.preprocessing,
                _recipe(job, told),
                augmentation=job.augmentation,
                seed=job.settings.seed,
                bf16=job.bf16,
                state_path=folder.baseline / "training.safetensors",
                stage="alone",
                progress=progress,
            )
            student, epochs = trained.model, trained.epochs
        save_stage(folder.baseline, student, job, epochs, progress)


def _student_stage(
    job: Job,
    told: DistillSettings,
    both: tuple[Teacher | None, SlicedViT],
    data: Dataset,
    folder: RunFolder,
    progress: Progress,
) -> None:
    """Trains the student with the teacher, into ``sliced/``."""
    teacher, student = both
    if finished(folder.sliced) is not None:
        return
    with stage(folder, "distill"):
        trained = fit(
            student,
            data,
            job.task.preprocessing,
            _recipe(job, told),
            augmentation=job.augmentation,
            seed=job.settings.seed,
            bf16=job.bf16,
            teacher=teacher,
            distillation=told.distillation,
            state_path=folder.sliced / "training.safetensors",
            stage="distill",
            progress=progress,
        )
        if teacher is not None and trained.teacher is not None:
            _keep_teacher(job, told, replace(teacher, network=trained.teacher), _place(folder), (), progress)
        by = teacher.name if teacher is not None else "its own deeper blocks"
        taught = replace(job, task=replace(job.task, source=f"{job.task.source}, taught by {by}"))
        save_stage(folder.sliced, trained.model, taught, trained.epochs, progress)


def _recipe(job: Job, told: DistillSettings) -> TrainRecipe:
    """Returns the recipe of both trainings of the student; weights that know the classes take that of a recovery."""
    known = told.student or (job.fine_tune.epochs == 0 and job.settings.fine_tune.epochs is None)
    return job.recover if known else job.fine_tune
