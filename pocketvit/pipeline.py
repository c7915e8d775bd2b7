"""The main job, stage by stage: fine-tune, search, slice, recover, export, verify, bench, report."""

from __future__ import annotations

from pathlib import Path

from compress import (
    load_data,
    load_model,
    read_task,
    save_model,
)
from device_bench import RunSummary, summarise, time_apart, write_report
from export import check_extras, export_each, released
from runtime import (
    Artifact,
    Progress,
    silent,
)

from .benching import BenchSettings, bench_stage
from .job import export_settings, prepare, use_threads
from .runfolder import RunFolder, claim, read_settings
from .settings import RunSettings
from .stage import stage
from .stages import export_stage, shrink_stages


def run(
    settings: RunSettings,
    root: Path | str,
    *,
    resume: bool = False,
    force: bool = False,
    bench: BenchSettings | None = None,
    progress: Progress = silent,
) -> RunSummary:
    """Does the whole job in folder ``root`` and returns its table.

    A file that does not pass its check is not measured and ends nothing: it is among the summary's ``refused``, its
    figures and the reason with it.

    Args:
        settings: what to make smaller, how small, and how.
        root: the run's folder.
        resume: continue a run that was stopped.
        force: replace a run that is there.
        bench: what to measure of the files, and how long.
        progress: told where the work is.

    Raises:
        PocketVitError: see the stages.
    """
    job = prepare(settings, progress)
    check_extras(export_settings(settings).kinds)
    with claim(Path(root), settings, resume=resume, force=force) as folder:
        shrink_stages(job, folder, progress)
        export_stage(folder, job.data, export_settings(settings), progress)
        bench_stage(folder, job.data, read_task(folder.sliced), bench or BenchSettings(), progress)
        write_report(folder.root)
    return summarise(folder.root)


def compress(
    settings: RunSettings, root: Path | str, *, resume: bool = False, force: bool = False, progress: Progress = silent
) -> RunSummary:
    """Does the first half of the job: a smaller, recovered model in ``root/sliced``.

    Raises:
        PocketVitError: see the stages.
    """
    job = prepare(settings, progress)
    with claim(Path(root), settings, resume=resume, force=force) as folder:
        shrink_stages(job, folder, progress)
    return summarise(folder.root)


def export_run(root: Path | str, settings: RunSettings, progress: Progress = silent) -> list[Artifact]:
    """Exports the models of a run that was compressed, to ``root/artifacts``.

    Args:
        root: the run's folder.
        settings: only what it says of export is used; the rest comes from the run.
        progress: told where the work is.

    Raises:
        RunFolderError: the folder is no run folder, or another process writes to it.
        ArtifactError: the run holds no sliced model yet, or it is damaged.
        RefusedFilesError: some files did not pass their check; raised last, with the manifests of all.
    """
    wanted, told = export_settings(settings), read_settings(RunFolder(Path(root)))
    use_threads(told)
    with claim(Path(root), told, resume=True, force=False) as folder:
        task = read_task(folder.sliced)
        data = load_data(
            task.data, seed=task.split_seed, train_limit=task.train_limit, skip_bad=told.skip_bad, progress=progress
        )
        return released(export_stage(folder, data, wanted, progress), folder.artifacts)


def export(
    settings: RunSettings, root: Path | str, *, resume: bool = False, force: bool = False, progress: Progress = silent
) -> list[Artifact]:
    """Exports a model as it is, untrained by us and unpruned, to ``root/artifacts``.

    Raises:
        RefusedFilesError: some files did not pass their check; raised last, with the manifests of all.
        PocketVitError: see ``prepare`` and ``export.export_model``.
    """
    job = prepare(settings, progress, own_classes=True)
    with claim(Path(root), settings, resume=resume, force=force) as folder, stage(folder, "export"):
        model = load_model(job.spec, job.plan.num_classes, settings.seed)
        save_model(folder.baseline, model, job.task)
        outcome = export_each(
            model, job.task, job.data, folder.artifacts, folder.name, export_settings(settings), progress, time_apart
        )
        return released(outcome, folder.artifacts)
