"""Runs: fine-tune, search, slice, recover, export, verify, bench and report, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from compress.data.data_list import list_data
from compress.model.folder import read_task, save_model
from device_bench.report.page import write_report
from device_bench.report.summary import RunSummary, summarise
from device_bench.timing.isolated import time_isolated
from export.exporter import check_extras, export_each, released
from pocketvit.label_free import check_no_drop
from pocketvit.settings import EXPORT_SETTINGS, RunSettings
from runtime import Artifact, PlanError, Progress, check_is, silent

from .bases import whole_model
from .benching import BenchSettings, bench_stage
from .checks import Checked, check_fine_tuned, keep_notes
from .converting import convert, needs_converter
from .job import PreparedRun, export_settings, prepare, use_threads
from .run_data import data_of_run
from .runfolder import RunFolder, claim, read_settings
from .stage import check_space, export_copies, log_notes, stage
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
    """Does all stages of a run in folder ``root`` and returns its table.

    A file that does not pass its check is not measured and does not end the run: the summary's ``refused`` holds it,
    with its figures and the reason.

    Args:
        settings: what to make smaller, how small, and how.
        root: the run's folder.
        resume: continue a run that was stopped.
        force: replace an existing run.
        bench: what to measure of the files, and how long.
        progress: called as the work advances.

    Raises:
        PocketVitError: a stage failed; see ``pocketvit.pipeline.stages``.
    """
    job = prepare(settings, progress)
    checked = check_before(job, [Path(root)], resume, progress)
    check_extras(export_settings(settings).kinds)
    with claim(Path(root), settings, resume=resume, force=force, data=list_data(job.data)) as folder:
        keep_notes(folder, job.data, [checked])
        all_stages(job, folder, bench or BenchSettings(), progress)
    return summarise(folder.root)


def all_stages(job: PreparedRun, folder: RunFolder, bench: BenchSettings, progress: Progress = silent) -> None:
    """Does all stages of a run whose folder this process has claimed.

    Raises:
        PocketVitError: a stage failed; see ``pocketvit.pipeline.stages``.
    """
    shrink_stages(job, folder, progress)
    export_stage(folder, job.data, export_settings(job.settings), progress)
    bench_stage(folder, job.data, read_task(folder.sliced), bench, progress)
    write_report(folder.root)


def compress(
    settings: RunSettings, root: Path | str, *, resume: bool = False, force: bool = False, progress: Progress = silent
) -> RunSummary:
    """Does the first half of a run: a smaller, recovered model in ``root/sliced``.

    Raises:
        PocketVitError: a stage failed; see ``pocketvit.pipeline.stages``.
    """
    job = prepare(settings, progress)
    checked = check_before(job, [Path(root)], resume, progress)
    with claim(Path(root), settings, resume=resume, force=force, data=list_data(job.data)) as folder:
        keep_notes(folder, job.data, [checked])
        shrink_stages(job, folder, progress)
    return summarise(folder.root)


def export_run(root: Path | str, settings: RunSettings, progress: Progress = silent) -> list[Artifact]:
    """Exports the models of a run that was compressed, to ``root/artifacts``.

    Args:
        root: the run's folder.
        settings: the fields for export are used, and ``data`` if a folder of pictures was moved; any other field must
            have its default or the run's value.
        progress: called as the work advances.

    Raises:
        PlanError: a field of model, data, training or pruning differs from the run's, or the run reads no labels and
            ``max_drop`` needs them.
        RunFolderError: the folder is no run folder, its data has changed, or another process writes to it.
        ArtifactError: the run holds no sliced model yet, or it is damaged.
        RefusedFilesError: some files did not pass their check; raised at the end, with the manifests of all.
    """
    check_is(settings, RunSettings)
    wanted, own = export_settings(settings), read_settings(RunFolder(Path(root)))
    if not own.uses_labels:
        check_no_drop(wanted.max_drop)
    _check_export_alone(settings, own, Path(root))
    use_threads(own)
    if settings.data != RunSettings().data:
        own = replace(own, data=settings.data)
    data = data_of_run(RunFolder(Path(root)), own, read_task(RunFolder(Path(root)).sliced), progress)
    with claim(Path(root), own, resume=True, force=False, data=list_data(data)) as folder:
        keep_notes(folder, data)
        return released(export_stage(folder, data, wanted, progress), folder.artifacts)


def _check_export_alone(settings: RunSettings, own: RunSettings, root: Path) -> None:
    usual = RunSettings()
    changed = [
        one.name
        for one in fields(RunSettings)
        if one.name not in {"data", *EXPORT_SETTINGS}
        and getattr(settings, one.name) not in (getattr(usual, one.name), getattr(own, one.name))
    ]
    if changed:
        raise PlanError(
            f"The run {root} decides its model and data",
            expected=f"nothing but {', '.join(sorted(EXPORT_SETTINGS))}",
            got=", ".join(changed),
        )


def export(
    settings: RunSettings, root: Path | str, *, resume: bool = False, force: bool = False, progress: Progress = silent
) -> list[Artifact]:
    """Exports a model as it is, without training or pruning, to ``root/artifacts``.

    Raises:
        RefusedFilesError: some files did not pass their check; raised last, with the manifests of all.
        PocketVitError: see ``prepare`` and ``export.export_model``.
    """
    check_is(settings, RunSettings)
    if needs_converter(settings):
        return convert(settings, root, resume=resume, force=force, progress=progress)
    job = prepare(settings, progress, own_classes=True)
    checked = check_before(job, [Path(root)], resume, progress)
    data = list_data(job.data)
    with claim(Path(root), settings, resume=resume, force=force, data=data) as folder, stage(folder, "export"):
        keep_notes(folder, job.data, [checked])
        log_notes(folder, job)
        if not folder.artifacts.is_dir():
            check_space(folder.root, job.plan, export_copies(settings.kinds))
        model = whole_model(job)
        save_model(folder.baseline, model, job.task)
        outcome = export_each(
            model, job.task, job.data, folder.artifacts, folder.name, export_settings(settings), progress, time_isolated
        )
        return released(outcome, folder.artifacts)


def check_before(job: PreparedRun, roots: Sequence[Path], resume: bool, progress: Progress) -> Checked | None:
    """Scores a fine-tuned checkpoint before anything is written; a continued run was checked before.

    Args:
        job: the run.
        roots: its folder, or the folders of several runs of the same model.
        resume: whether runs are continued.
        progress: called as images are scored.

    Raises:
        ModelError: the checkpoint does not know the data's classes.
    """
    if resume and any((RunFolder(root).baseline / "task.json").is_file() for root in roots):
        return None
    return check_fine_tuned(job, progress, [f"it was resampled ({change})" for change in job.resampled])
