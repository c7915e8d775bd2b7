"""The stages of a run. Each reads and writes the run's folder alone and does nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.bases.analysis import BasisAnalysis
from compress.budget import Tables, parse_budget
from compress.data.dataset import Dataset
from compress.fidelity import selection
from compress.model.canonical import canonical
from compress.model.coordinates import Coordinates, read_coordinates
from compress.model.folder import read_model, read_task, weights_sha256
from compress.model.slicing import KeptUnits, same_widths
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.search.base import Proposal
from compress.search.journal import read_journal, write_journal
from compress.train.fit import fit
from compress.train.masks import Masks
from device_bench.documents.sparsity import ZEROS_DOCUMENT, LayerZeros, Zeros, zeros_path
from device_bench.timing.isolated import time_isolated
from export.exporter import ExportOutcome, export_each
from export.settings import ExportSettings
from runtime import (
    LATENCY_DOCUMENT,
    METRICS_DOCUMENT,
    Artifact,
    ArtifactError,
    EpochRecord,
    PlanError,
    Progress,
    encode,
    sha256_of,
    silent,
)

from .bases import analysis_of, bases_path, cut_in_bases, images_for_bases, whole_model
from .cutting import cut_units
from .job import PreparedRun, cost_name, profiled_target
from .profiling import profile
from .runfolder import RunFolder
from .searching import correct_latency, in_basis, search_inputs
from .stage import check_space, export_copies, finished, log_notes, save_stage, stage
from .task_model import check_same_texts

_NOT_BETTER = (
    "The recovery did not help: after every epoch the answers to held-out images diverged more from the whole model's "
    "than before it, so the sliced model is as it was cut. Try a lower --recovery-lr, or more epochs or minutes."
)


def fine_tune_stage(job: PreparedRun, folder: RunFolder, progress: Progress = silent) -> SlicedViT:
    """Trains the model on the data, or takes it as it is, and saves it in ``baseline/``.

    Raises:
        ModelError: the weights cannot be had.
        RunFolderError: the texts of a zero-shot classifier have changed.
        StorageError: there is no space, or no permission to write.
    """
    done = finished(folder.baseline)
    if done is not None:
        check_same_texts(job.texts, done, read_task(folder.baseline), folder.root)
        return done
    with stage(folder, "fine-tune"):
        log_notes(folder, job)
        model = whole_model(job)
        how = job.training(folder.baseline, "fine-tune", progress)
        trained = fit(model, job.data, job.task.preprocessing, job.fine_tune, **how)
        save_stage(folder.baseline, trained.model, job, trained.epochs, progress)
    return trained.model


def latency_stage(job: PreparedRun, folder: RunFolder, progress: Progress = silent) -> Tables:
    """Reads or measures the latency table that the cost or the budget needs, and keeps it in ``search/latency.json``.

    Raises:
        PlanError: the budget cannot be met.
        MeasurementError: the times make no sense.
        StorageError: there is no space, or no permission to write.
    """
    target = profiled_target(job.settings)
    if target is None:
        return {}
    if folder.latency.is_file():
        return {target: LATENCY_DOCUMENT.read(folder.latency)}
    settings = job.settings
    with stage(folder, "profile"):
        table, _ = profile(
            job.plan,
            Path(settings.profiles),
            target=target,
            precision=settings.latency_precision,
            threads=settings.latency_threads,
            progress=progress,
        )
        parse_budget(settings.budget, job.plan, {target: table})
        LATENCY_DOCUMENT.write(folder.latency, table)
    return {target: table}


def search_stage(
    job: PreparedRun, folder: RunFolder, baseline: SlicedViT, tables: Tables, progress: Progress = silent
) -> Proposal:
    """Chooses what to prune and writes ``search/journal.jsonl``.

    Raises:
        PlanError: the budget cannot be met.
        StorageError: there is no space, or no permission to write.
    """
    settings = {
        "search": job.settings.search,
        "cost": cost_name(job.settings),
        "budget": job.settings.budget,
        "latency_sha256": sha256_of(folder.latency) if tables else None,
        "group_sizes": encode(job.groups),
        "importance": "loss" if _by_loss(job) else job.settings.criterion,
        "images_per_class": job.settings.importance_images,
        "seed": job.settings.seed,
        "baseline_sha256": sha256_of(folder.baseline / "model.safetensors"),
        **_of_bases(job),
        **job.method.recorded(job.method_settings, job.recover),
    }
    plan = canonical(baseline).plan if job.settings.in_best_bases else baseline.plan
    try:
        return read_journal(folder.journal, plan, settings)
    except ArtifactError:
        pass
    with stage(folder, "search"):
        place, analysis = folder.journal.parent, None
        if job.settings.in_best_bases:
            analysis = analysis_of(job, folder, place, baseline, progress)
        model = analysis.model if analysis else in_basis(job, baseline, progress)
        inputs = search_inputs(job, model, baseline.plan, tables, place, progress, analysis=analysis)
        proposal = job.method.run(replace(inputs, asked=settings))
        write_journal(folder.journal, settings, proposal, job.method.explain)
        for name in job.method.scratch:
            (folder.journal.parent / name).unlink(missing_ok=True)
    return proposal


def recover_stage(
    job: PreparedRun, folder: RunFolder, baseline: SlicedViT, proposal: Proposal, progress: Progress = silent
) -> SlicedViT:
    """Slices the baseline, trains the sliced model and saves it in ``sliced/``.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    done = finished(folder.sliced)
    if done is not None and same_widths(done.plan, proposal.plan):
        bases_path(folder.journal.parent).unlink(missing_ok=True)  # of a run that was killed at the end of this stage
        return done
    with stage(folder, "recover"):
        back: Coordinates | None
        if job.settings.in_best_bases:
            analysis = analysis_of(job, folder, folder.journal.parent, baseline, progress)
            model, back = cut_in_bases(job, folder, baseline, analysis, proposal.kept, 1, progress)
        else:
            whole = in_basis(job, baseline, progress)
            model = cut_units(job, folder, whole, proposal.kept, 1, progress)
            back = map_back_of(model, baseline, proposal.kept) if whole is baseline else None
        made = _recover(job, folder, job.recover, folder.sliced, model, baseline, 1, progress, back=back)
    bases_path(folder.journal.parent).unlink(missing_ok=True)
    return made


def _of_bases(job: PreparedRun) -> dict[str, Any]:
    """Returns what the journal says of the bases that the model is cut in."""
    if not job.settings.in_best_bases:
        return {}
    return {"basis": "best", "basis_images": images_for_bases(job), "basis_copies": job.settings.basis_copies}


def _by_loss(job: PreparedRun) -> bool:
    """Returns whether units are ranked by the measured loss of the features, and not by a criterion."""
    return job.settings.in_best_bases and not job.settings.importance


def zeros_stage(job: PreparedRun, folder: RunFolder, baseline: SlicedViT, progress: Progress = silent) -> SlicedViT:
    """Makes weights zero, trains the rest, saves the model in ``sliced/`` and the counts in ``search/sparsity.json``.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    inputs = search_inputs(job, baseline, baseline.plan, {}, folder.journal.parent, progress)
    masks = job.method.run(inputs).masks or {}
    model = finished(folder.sliced)
    if model is None:
        with stage(folder, "recover"):
            model = _recover(job, folder, job.recover, folder.sliced, baseline, baseline, 1, progress, masks)
    weights = model.state_dict()
    layers = tuple(LayerZeros(name, weights[name].numel(), int((weights[name] == 0).sum())) for name in masks)
    ZEROS_DOCUMENT.write(zeros_path(folder.root), Zeros(inputs.settings.sparsity, inputs.settings.scope, layers))
    return model


def rounds_stage(
    job: PreparedRun, folder: RunFolder, baseline: SlicedViT, tables: Tables, progress: Progress = silent
) -> SlicedViT:
    """Searches, slices and recovers, round after round until the budget is met, and saves the model in ``sliced/``.

    ``search/iteration-NN/`` holds the journal and the model of a round.

    Raises:
        PlanError: the budget is not met after the last round.
        StorageError: there is no space, or no permission to write.
    """
    done = finished(folder.sliced)
    if done is not None:
        return done
    budget, model = parse_budget(job.settings.budget, baseline.plan, tables), baseline
    back: Coordinates | None = None
    iterations = job.method_settings.iterations
    epochs: list[EpochRecord] = []
    for number in range(1, iterations + 1):
        if budget.of(model.plan) <= budget.limit:
            break
        place = folder.iteration(number)
        made = finished(place)
        if made is None:
            analysis = analysis_of(job, folder, place, model, progress) if job.settings.in_best_bases else None
            with stage(folder, f"search {number}"):
                kept = _search_round(job, place, model, baseline, tables, number, progress, analysis)
            with stage(folder, f"recover {number}"):
                smaller, own = _cut_round(job, folder, model, analysis, kept, number, progress)
                last = budget.of(smaller.plan) <= budget.limit
                whole_back = own.then(back) if own and back else own or back
                recipe = _recipe(job, last)
                made = _recover(job, folder, recipe, place, smaller, baseline, number, progress, back=whole_back)
        bases_path(place).unlink(missing_ok=True)  # also where the run was killed at the end of the round
        model, back = made, read_coordinates(place)
        for record in METRICS_DOCUMENT.read(place / "metrics.json").epochs:
            epochs.append(replace(record, epoch=len(epochs) + 1))
    if budget.of(model.plan) > budget.limit:
        raise PlanError(
            f"The budget {job.settings.budget} is not met after {iterations} rounds of search",
            expected=f"at most {budget.cost.shown(budget.limit)}",
            got=budget.cost.shown(budget.of(model.plan)),
            fix="Allow more with --iterations, deeper trees with --depth or larger groups with --group-size, "
            "and another --name",
        )
    save_stage(folder.sliced, model, job, tuple(epochs), progress, baseline, back)
    return model


def _cut_round(
    job: PreparedRun,
    folder: RunFolder,
    model: SlicedViT,
    analysis: BasisAnalysis | None,
    kept: KeptUnits,
    number: int,
    progress: Progress,
) -> tuple[SlicedViT, Coordinates | None]:
    """Cuts the model of a round, and returns the coordinates of its features in that model; None if they are equal."""
    if analysis is not None:
        return cut_in_bases(job, folder, model, analysis, kept, number, progress)
    smaller = cut_units(job, folder, model, kept, number, progress)
    return smaller, map_back_of(smaller, model, kept)


def _search_round(
    job: PreparedRun,
    place: Path,
    model: SlicedViT,
    whole: SlicedViT,
    tables: Tables,
    number: int,
    progress: Progress,
    analysis: BasisAnalysis | None,
) -> KeptUnits:
    """Searches from one model. A search that was killed goes on from its ``journal.jsonl``."""
    shown = progress if job.method.one_round else _of_round(progress, number, job.method_settings.iterations)
    start = analysis.model if analysis else model
    inputs = search_inputs(job, start, whole.plan, tables, place, shown, number, whole, analysis)
    asked = {
        "search": job.settings.search,
        **({"basis": "best"} if analysis else {}),
        "weights_sha256": weights_sha256(start),
        "cost": inputs.required_cost.name,
        "total": inputs.total,
        "budget": job.settings.budget,
        "limit": inputs.required_budget.limit,
    }
    return job.method.run(replace(inputs, asked=asked)).kept


def _of_round(progress: Progress, number: int, most: int) -> Progress:
    """Returns a callback that adds the number of the round."""

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"{stage} {number}", done, total, f"round {number} of at most {most}, {note}")

    return report


def _recipe(job: PreparedRun, last: bool) -> TrainRecipe:
    """Returns the recipe of a round's recovery, which is shorter for every round but the last."""
    if last:
        return job.recover
    asked = job.method_settings.round_epochs
    epochs = -(-job.recover.epochs // 4) if asked is None else asked
    return replace(job.recover, epochs=epochs, minutes=job.recover.minutes / 4)


def map_back_of(model: SlicedViT, whole: SlicedViT, kept: KeptUnits) -> Coordinates | None:
    """Returns the map of a model's coordinates into those of the model it was cut from; None if they are the same."""
    if model.plan.embed_dim == whole.plan.embed_dim:
        return None
    return selection(kept.embed, whole.plan.embed_dim)


def _recover(
    job: PreparedRun,
    folder: RunFolder,
    recipe: TrainRecipe,
    place: Path,
    model: SlicedViT,
    baseline: SlicedViT,
    number: int,
    progress: Progress,
    masks: Masks | None = None,
    back: Coordinates | None = None,
) -> SlicedViT:
    """Trains a sliced model with the baseline as teacher and saves it in ``place``."""
    several = job.method.kind == "rounds" and not job.method.one_round
    trained = fit(
        model,
        job.data,
        job.task.preprocessing,
        recipe,
        teacher=baseline if job.lesson and job.lesson.needs_teacher else None,
        distillation=job.lesson,
        masks=masks,
        back=back,
        **job.training(place, f"recover {number}" if several else "recover", progress, number),
    )
    if trained.limit:
        folder.log("limited", minutes=recipe.minutes, steps=trained.limit)
    if not trained.improved:
        folder.log("warning", text=_NOT_BETTER)
    save_stage(place, trained.model, job, trained.epochs, progress, baseline, back)
    return trained.model


def as_begun(job: PreparedRun, folder: RunFolder) -> PreparedRun:
    """Returns the run with the preprocessing of its baseline, since an older version may have begun it."""
    prepared = read_task(folder.baseline).preprocessing
    return replace(job, task=replace(job.task, preprocessing=prepared))


def shrink_stages(job: PreparedRun, folder: RunFolder, progress: Progress = silent) -> None:
    """Makes ``baseline/`` and ``sliced/`` by the search method of the run.

    Raises:
        PocketVitError: see the single stages.
    """
    if not (folder.baseline / "metrics.json").is_file():
        check_space(folder.root, job.plan)
    tables = latency_stage(job, folder, progress)
    baseline = fine_tune_stage(job, folder, progress)
    job = as_begun(job, folder)
    tables = correct_latency(job, folder, baseline, tables, progress)
    if job.method.kind == "rounds":
        rounds_stage(job, folder, baseline, tables, progress)
    elif job.method.kind == "zeros":
        zeros_stage(job, folder, baseline, progress)
    else:
        recover_stage(job, folder, baseline, search_stage(job, folder, baseline, tables, progress), progress)


def export_stage(
    folder: RunFolder, data: Dataset, settings: ExportSettings, progress: Progress = silent
) -> ExportOutcome:
    """Exports and verifies the sliced model in every form, and the baseline as float TFLite to compare with.

    A refused file does not stop the others.

    Raises:
        ArtifactError: there is no baseline or no sliced model.
        StorageError: there is no space, or no permission to write.
        MissingExtraError: a converter or engine is not installed.
    """
    accepted: list[Artifact] = []
    refused: list[Artifact] = []
    if not folder.artifacts.is_dir():
        check_space(folder.root, read_model(folder.sliced).plan, export_copies(settings.kinds))
    with stage(folder, "export"):
        plain = replace(
            settings,
            kinds=("fp32",),
            int8_recipe="",
            io_type="int8",
            app=False,
            app_input="float",
            app_scores="probabilities",
        )
        for source, name, wanted in ((folder.baseline, "baseline", plain), (folder.sliced, folder.name, settings)):
            model, task = read_model(source), read_task(source)
            whole = read_model(folder.baseline) if model.plan.is_vector else None
            outcome = export_each(model, task, data, folder.artifacts, name, wanted, progress, time_isolated, whole)
            accepted += outcome.accepted
            refused += outcome.refused
    for artifact in refused:
        folder.log("refused", file=artifact.file, reason=artifact.refused)
    return ExportOutcome(tuple(accepted), tuple(refused))
