"""The main job, stage by stage: fine-tune, search, slice, recover, export, verify, bench, report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compress import (
    FINE_TUNE,
    RECOVER,
    SCRATCH,
    SCRATCH_RECOVER,
    Augmentation,
    Dataset,
    GroupSizes,
    ModelSpec,
    Proposal,
    SlicedViT,
    Task,
    TrainRecipe,
    augmentation_for,
    bf16_helps,
    check_model,
    checkpoint_classes,
    default_classes,
    fisher_scores,
    fit,
    group_importance,
    input_stats,
    keep_all,
    load_data,
    load_model,
    parse_budget,
    propose,
    read_journal,
    read_model,
    read_task,
    save_model,
    score,
    search_set,
    slice_vit,
    training_batches,
    write_journal,
)
from device_bench import RunSummary, Sampling, bench, read_result, summarise, write_report, write_result
from export import ExportSettings, export_model
from runtime import (
    Artifact,
    ArtifactError,
    EpochRecord,
    ModelError,
    ModelMetrics,
    PlanError,
    Preprocessing,
    Progress,
    ShapePlan,
    StorageError,
    encode,
    macs,
    params,
    read_metrics,
    sha256_of,
    silent,
    write_metrics,
)

from .runfolder import RunFolder, claim, read_settings
from .settings import DEFAULT_IMG_SIZE, DEFAULT_MODEL, DEFAULT_OVERRIDES, DEFAULT_PATCH_SIZE, RunSettings, TrainSettings

_IMPORTANCE_BATCH = 16
_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Job:
    """A run's settings, checked and filled in; nothing is written yet.

    Attributes:
        settings: as given.
        data: loaded and split.
        spec: the model to start from.
        plan: of that model.
        task: its input and classes.
        fine_tune: recipe of the first training.
        recover: recipe of the training after slicing.
        augmentation: of training pictures.
        bf16: whether to train in bfloat16.
        groups: how much one removal takes.
    """

    settings: RunSettings
    data: Dataset
    spec: ModelSpec
    plan: ShapePlan
    task: Task
    fine_tune: TrainRecipe
    recover: TrainRecipe
    augmentation: Augmentation
    bf16: bool
    groups: GroupSizes


def run(
    settings: RunSettings,
    root: Path,
    *,
    resume: bool = False,
    force: bool = False,
    sampling: Sampling | None = None,
    progress: Progress = silent,
) -> RunSummary:
    """Does the whole job in folder ``root`` and returns its table.

    Args:
        settings: what to make smaller, how small, and how.
        root: the run's folder.
        resume: continue a run that was stopped.
        force: replace a run that is there.
        sampling: how long to measure.
        progress: told where the work is.

    Raises:
        PocketVitError: see the stages.
    """
    job = prepare(settings, progress)
    with claim(root, settings, resume=resume, force=force) as folder:
        baseline = fine_tune_stage(job, folder, progress)
        proposal = search_stage(job, folder, baseline, progress)
        sliced = recover_stage(job, folder, baseline, proposal, progress)
        export_stage(job, folder, baseline, sliced, progress)
        bench_stage(folder, sampling, progress)
        write_report(root)
    return summarise(root)


def compress(
    settings: RunSettings, root: Path, *, resume: bool = False, force: bool = False, progress: Progress = silent
) -> RunSummary:
    """Does the first half of the job: a smaller, recovered model in ``root/sliced``.

    Raises:
        PocketVitError: see the stages.
    """
    job = prepare(settings, progress)
    with claim(root, settings, resume=resume, force=force) as folder:
        baseline = fine_tune_stage(job, folder, progress)
        proposal = search_stage(job, folder, baseline, progress)
        recover_stage(job, folder, baseline, proposal, progress)
    return summarise(root)


def export(
    settings: RunSettings, root: Path, *, resume: bool = False, force: bool = False, progress: Progress = silent
) -> list[Artifact]:
    """Exports a model as it is, untrained by us and unpruned, to ``root/artifacts``.

    Raises:
        PocketVitError: see ``prepare`` and ``export.export_model``.
    """
    job = prepare(settings, progress, own_classes=True)
    with claim(root, settings, resume=resume, force=force) as folder, _stage(folder, "export"):
        model = load_model(job.spec, job.plan.num_classes, settings.seed)
        save_model(folder.baseline, model, job.task)
        return export_model(model, job.task, job.data, folder.artifacts, root.name, export_settings(settings), progress)


def export_run(root: Path, settings: RunSettings, progress: Progress = silent) -> list[Artifact]:
    """Exports the sliced model of a run that was compressed, to ``root/artifacts``.

    Args:
        root: the run's folder.
        settings: only what it says of export is used; the rest comes from the run.
        progress: told where the work is.

    Raises:
        RunFolderError: the folder is no run folder, or another process writes to it.
        ArtifactError: the run holds no sliced model yet, or it is damaged.
        ParityError: a file does not compute what the model computes.
    """
    told = read_settings(RunFolder(root))
    torch.set_num_threads(told.threads or os.cpu_count() or 1)
    with claim(root, told, resume=True, force=False) as folder, _stage(folder, "export"):
        model, task = read_model(folder.sliced), read_task(folder.sliced)
        data = load_data(
            task.data, seed=task.split_seed, train_limit=task.train_limit, skip_bad=told.skip_bad, progress=progress
        )
        name = root.resolve().name
        return export_model(model, task, data, folder.artifacts, name, export_settings(settings), progress)


def prepare(settings: RunSettings, progress: Progress = silent, own_classes: bool = False) -> Job:
    """Checks everything that can be checked before any work starts, and loads the data.

    Args:
        settings: as given.
        progress: told while a folder's pictures are checked.
        own_classes: take the number of classes from the weights, not from the data.

    Raises:
        ModelError: the model is unknown, unsupported, or its checkpoint does not fit.
        DataError: the data is unknown, not there, or too small.
        PlanError: sizes that do not divide, or a budget that cannot be met.
    """
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    export_settings(settings)
    spec = _model_spec(settings)
    check_model(spec)
    known = checkpoint_classes(spec.checkpoint) if spec.checkpoint else None
    data = load_data(
        settings.data,
        seed=settings.seed,
        train_limit=settings.train_limit,
        skip_bad=settings.skip_bad,
        progress=progress,
    )
    if settings.in_chans is None and not (settings.pretrained or settings.checkpoint):
        spec = replace(spec, in_chans=data.channels)
    classes = data.num_classes
    if own_classes and not settings.reset_head and (known or settings.model):
        classes = known or default_classes(spec)
    elif known not in (None, classes) and not settings.reset_head:
        raise ModelError(
            f"The checkpoint {spec.checkpoint} has another number of classes than the data",
            expected=classes,
            got=known,
            fix="Choose the data it was trained on, or give --reset-head to train a new classifier",
        )
    plan = check_model(spec, classes)
    parse_budget(settings.budget, plan)
    names = data.class_names if classes == data.num_classes else tuple(f"class {i}" for i in range(classes))
    fresh = not (settings.pretrained or settings.checkpoint)
    task = Task(
        data=settings.data,
        split_seed=settings.seed,
        train_limit=settings.train_limit,
        preprocessing=_preprocessing(settings, spec, plan, data),
        class_names=names,
        source=_source(settings, spec),
        trained=not fresh or not own_classes,
    )
    headless = spec.checkpoint is not None and (settings.reset_head or known is None)
    already_trained = spec.checkpoint is not None and not headless
    fine_tune = _recipe(SCRATCH if fresh else FINE_TUNE, settings.fine_tune, settings, 0 if already_trained else None)
    recover = _recipe(SCRATCH_RECOVER if fresh else RECOVER, settings.recover, settings)
    bf16 = settings.bf16 == "on" or (settings.bf16 == "auto" and bf16_helps(plan))
    groups = _group_sizes(settings.group_sizes)
    return Job(settings, data, spec, plan, task, fine_tune, recover, augmentation_for(data), bf16, groups)


def fine_tune_stage(job: Job, folder: RunFolder, progress: Progress = silent) -> SlicedViT:
    """Trains the model on the data, or takes it as it is, into ``baseline/``.

    Raises:
        ModelError: the weights cannot be had.
        StorageError: there is no space, or no permission to write.
    """
    done = _finished(folder.baseline)
    if done is not None:
        return done
    with _stage(folder, "fine-tune"):
        model = load_model(job.spec, job.plan.num_classes, job.settings.seed)
        _check_space(folder.root, model)
        trained = fit(
            model,
            job.data,
            job.task.preprocessing,
            job.fine_tune,
            augmentation=job.augmentation,
            seed=job.settings.seed,
            bf16=job.bf16,
            state_path=folder.baseline / "training.safetensors",
            stage="fine-tune",
            progress=progress,
        )
        _save(folder.baseline, trained.model, job, trained.epochs)
    return trained.model


def search_stage(job: Job, folder: RunFolder, baseline: SlicedViT, progress: Progress = silent) -> Proposal:
    """Chooses what to prune, into ``search/journal.jsonl``.

    Raises:
        PlanError: the budget cannot be met.
        StorageError: there is no space, or no permission to write.
    """
    settings = {
        "search": "one-shot",
        "budget": job.settings.budget,
        "group_sizes": encode(job.groups),
        "images_per_class": job.settings.importance_images,
        "seed": job.settings.seed,
        "baseline_sha256": sha256_of(folder.baseline / "model.safetensors"),
    }
    try:
        return read_journal(folder.journal, baseline.plan, settings)
    except ArtifactError:
        pass
    with _stage(folder, "search"):
        images = search_set(job.data, job.settings.importance_images, job.settings.seed)
        batches = training_batches(
            job.data,
            images,
            job.task.preprocessing,
            job.augmentation,
            batch_size=_IMPORTANCE_BATCH,
            seed=job.settings.seed,
            epoch=0,
        )
        total = -(-len(images) // _IMPORTANCE_BATCH)
        scores = fisher_scores(baseline, batches, bf16=job.bf16, progress=progress, total=total)
        budget = parse_budget(job.settings.budget, baseline.plan)
        importance = group_importance(baseline.plan, scores)
        proposal = propose(baseline.plan, importance, budget, keep_all(baseline.plan), job.groups)
        write_journal(folder.journal, settings, proposal)
    return proposal


def recover_stage(
    job: Job, folder: RunFolder, baseline: SlicedViT, proposal: Proposal, progress: Progress = silent
) -> SlicedViT:
    """Slices the baseline and trains what is left, into ``sliced/``.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    done = _finished(folder.sliced)
    if done is not None and done.plan == proposal.plan:
        return done
    with _stage(folder, "recover"):
        trained = fit(
            slice_vit(baseline, proposal.kept),
            job.data,
            job.task.preprocessing,
            job.recover,
            augmentation=job.augmentation,
            seed=job.settings.seed + 1,
            bf16=job.bf16,
            teacher=baseline if job.settings.distill else None,
            state_path=folder.sliced / "training.safetensors",
            stage="recover",
            progress=progress,
        )
        _save(folder.sliced, trained.model, job, trained.epochs)
    return trained.model


def export_stage(
    job: Job, folder: RunFolder, baseline: SlicedViT, sliced: SlicedViT, progress: Progress = silent
) -> list[Artifact]:
    """Exports the sliced model in every form, and the baseline as float TFLite to compare with, verified.

    Raises:
        ParityError: a file does not compute what the model computes.
        StorageError: there is no space, or no permission to write.
        MissingExtraError: a converter or engine is not installed.
    """
    wanted = export_settings(job.settings)
    with _stage(folder, "export"):
        plain = replace(wanted, kinds=("fp32",))
        before = export_model(baseline, job.task, job.data, folder.artifacts, "baseline", plain, progress)
        return before + export_model(
            sliced, job.task, job.data, folder.artifacts, folder.root.resolve().name, wanted, progress
        )


def bench_stage(folder: RunFolder, sampling: Sampling | None = None, progress: Progress = silent) -> None:
    """Times every exported file on this machine's CPU, interleaved, into ``bench/cpu.json``.

    Raises:
        ArtifactError: a file is damaged.
        StorageError: there is no space, or no permission to write.
    """
    files = sorted([*folder.artifacts.glob("*.onnx"), *folder.artifacts.glob("*.tflite")])
    path = folder.bench("cpu")
    try:
        if {file.sha256 for file in read_result(path).files} == {sha256_of(file) for file in files}:
            return
    except ArtifactError:
        pass
    with _stage(folder, "bench"):
        write_result(path, bench(files, "cpu", threads=1, sampling=sampling, progress=progress))


def export_settings(settings: RunSettings) -> ExportSettings:
    """Returns what to export, and how to check it.

    Raises:
        DataError: a value is out of range.
    """
    return ExportSettings(
        kinds=settings.kinds,
        calibration_images=settings.calibration_images,
        verify_images=settings.verify_images,
        min_agreement=settings.min_agreement,
        seed=settings.seed,
    )


def _model_spec(settings: RunSettings) -> ModelSpec:
    channels = settings.in_chans or 3
    if channels not in (1, 3):
        raise PlanError("Images have 1 or 3 channels", got=channels, fix="Give --in-chans 1 or 3")
    builtin = not settings.model
    return ModelSpec(
        name=settings.model or DEFAULT_MODEL,
        img_size=settings.img_size or (DEFAULT_IMG_SIZE if builtin else None),
        patch_size=settings.patch_size or (DEFAULT_PATCH_SIZE if builtin else None),
        in_chans=channels,
        pretrained=bool(settings.pretrained),
        checkpoint=Path(settings.checkpoint) if settings.checkpoint else None,
        reset_head=settings.reset_head,
        overrides={**(DEFAULT_OVERRIDES if builtin and not settings.pretrained else {}), **settings.model_args},
    )


def _preprocessing(settings: RunSettings, spec: ModelSpec, plan: ShapePlan, data: Dataset) -> Preprocessing:
    stats = input_stats(spec)
    square = data.size is not None and data.size[0] == data.size[1] and plan.img_size[0] == plan.img_size[1]
    return Preprocessing(
        height=plan.img_size[0],
        width=plan.img_size[1],
        channels=plan.in_chans,
        mean=settings.mean or stats.mean,
        std=settings.std or stats.std,
        interpolation=stats.interpolation,  # type: ignore[arg-type]
        resize="stretch" if square else "center_crop",
        crop_pct=1.0 if square else stats.crop_pct,
    )


def _source(settings: RunSettings, spec: ModelSpec) -> str:
    if spec.checkpoint is not None:
        return f"timm {spec.name}, weights from {spec.checkpoint.name}"
    return f"timm {spec.name}, {'published' if settings.pretrained else 'fresh'} weights, seed {settings.seed}"


def _recipe(base: TrainRecipe, changes: TrainSettings, settings: RunSettings, epochs: int | None = None) -> TrainRecipe:
    values: dict[str, Any] = {"distill_weight": settings.distill_weight, "temperature": settings.temperature}
    if epochs is not None:
        values["epochs"] = epochs
    for name in ("epochs", "batch_size", "lr", "head_lr", "patience"):
        if getattr(changes, name) is not None:
            values[name] = getattr(changes, name)
    if changes.lr is not None and changes.head_lr is None:
        values["head_lr"] = changes.lr * base.head_lr / base.lr
    return replace(base, **values)


def _group_sizes(sizes: dict[str, int]) -> GroupSizes:
    unknown = sorted(set(sizes) - {"mlp", "qk", "v", "embed"})
    if unknown:
        raise PlanError("Unknown kind of group", expected="mlp, qk, v or embed", got=", ".join(unknown))
    return GroupSizes(**sizes)


def _finished(folder: Path) -> SlicedViT | None:
    """Returns the model of a stage that ran to its end; its metrics are written last."""
    try:
        read_metrics(folder / "metrics.json")
        model = read_model(folder)
        (folder / "training.safetensors").unlink(missing_ok=True)
        return model
    except ArtifactError:
        return None


def _save(folder: Path, model: SlicedViT, job: Job, epochs: tuple[EpochRecord, ...]) -> None:
    spec = job.task.preprocessing
    test, held_out = (score(model, job.data, indices, spec) for indices in (job.data.test, job.data.held_out))
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


def _check_space(root: Path, model: SlicedViT) -> None:
    """Refuses to start hours of work that the disk cannot hold."""
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
def _stage(folder: RunFolder, name: str) -> Iterator[None]:
    started = time.monotonic()
    folder.log("started", stage=name)
    yield
    folder.log("finished", stage=name, seconds=round(time.monotonic() - started, 3))
