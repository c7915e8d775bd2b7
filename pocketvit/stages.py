"""The stages of the main job; each reads and writes the run's folder alone, and does nothing twice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from compress import (
    Dataset,
    Proposal,
    SlicedViT,
    fisher_scores,
    fit,
    group_importance,
    keep_all,
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
from device_bench import Sampling, bench, read_result, write_result
from export import ExportSettings, export_model
from runtime import (
    Artifact,
    ArtifactError,
    EpochRecord,
    ModelMetrics,
    Progress,
    StorageError,
    encode,
    macs,
    params,
    read_metrics,
    sha256_of,
    silent,
    write_metrics,
)

from .job import Job
from .runfolder import RunFolder

_IMPORTANCE_BATCH = 16
_SPARE_BYTES = 64 * 2**20


def fine_tune_stage(job: Job, folder: RunFolder, progress: Progress = silent) -> SlicedViT:
    """Trains the model on the data, or takes it as it is, into ``baseline/``.

    Raises:
        ModelError: the weights cannot be had.
        StorageError: there is no space, or no permission to write.
    """
    done = _finished(folder.baseline)
    if done is not None:
        return done
    with stage(folder, "fine-tune"):
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
    with stage(folder, "search"):
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
    with stage(folder, "recover"):
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
    folder: RunFolder, data: Dataset, settings: ExportSettings, progress: Progress = silent
) -> list[Artifact]:
    """Exports the sliced model in every form, and the baseline as float TFLite to compare with, verified.

    Raises:
        ArtifactError: there is no baseline or no sliced model.
        ParityError: a file does not compute what the model computes.
        StorageError: there is no space, or no permission to write.
        MissingExtraError: a converter or engine is not installed.
    """
    artifacts = []
    with stage(folder, "export"):
        plain = replace(settings, kinds=("fp32",))
        for source, name, wanted in ((folder.baseline, "baseline", plain), (folder.sliced, folder.name, settings)):
            model, task = read_model(source), read_task(source)
            artifacts += export_model(model, task, data, folder.artifacts, name, wanted, progress)
    return artifacts


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
    with stage(folder, "bench"):
        write_result(path, bench(files, "cpu", threads=1, sampling=sampling, progress=progress))


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
def stage(folder: RunFolder, name: str) -> Iterator[None]:
    """Logs when the work in the block started and, if it did, ended."""
    started = time.monotonic()
    folder.log("started", stage=name)
    yield
    folder.log("finished", stage=name, seconds=round(time.monotonic() - started, 3))
