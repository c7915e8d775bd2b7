"""What a run gives to its search method: the model in the criterion's basis, importance, images, budget and cost.

A latency table is corrected first, by timing a model like the one that the search will end at.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from compress.bases.analysis import BasisAnalysis
from compress.budget import Tables, budget_cost, latency_target, parse_budget, parse_cost, smallest_plan
from compress.data.batches import training_batches
from compress.data.search_images import SearchImages, draw_search_images
from compress.data.splits import search_set
from compress.evaluate import MOST_OFF, off_by
from compress.importance import CRITERIA
from compress.importance.base import ImportanceInputs
from compress.importance.units import Importance
from compress.model.slicing import keep_all
from compress.model.vit import SlicedViT
from compress.own_answers import answered, with_answers
from compress.search.base import MeasuredUnits, SearchInputs
from compress.search.one_shot import propose
from compress.search.uniform import even_plan
from runtime import LATENCY_DOCUMENT, LatencyTable, ModelError, Progress, ShapePlan

from .bases import analysis_of
from .job import IMPORTANCE_BATCH, PreparedRun, cost_name
from .profiling import correct_by_choice
from .runfolder import RunFolder
from .stage import finished, stage


def in_basis(job: PreparedRun, model: SlicedViT, progress: Progress) -> SlicedViT:
    """Returns the model in the basis of the run's criterion.

    Raises:
        ModelError: the criterion's change of basis changes the plan, or what the model computes.
    """
    criterion = CRITERIA[job.settings.criterion]
    folded = criterion.folded(_importance_inputs(job, model, progress))
    if folded is not model:
        images, _ = next(iter(_importance_inputs(job, model, progress).batches))
        _check_same(criterion.name, model, folded, images)
    return folded


def _check_same(name: str, model: SlicedViT, folded: SlicedViT, images: torch.Tensor) -> None:
    what = f"The criterion {name} does not keep the model the same in its basis"
    if folded.plan != model.plan:
        raise ModelError(what, expected="the plan of the model", got="another plan")
    off = off_by(folded, model, images)
    if not off <= MOST_OFF:
        raise ModelError(what, expected=f"outputs within {MOST_OFF:g} of the largest", got=f"{off:.3g}")


def search_inputs(
    job: PreparedRun,
    model: SlicedViT,
    whole: ShapePlan,
    tables: Tables,
    place: Path,
    progress: Progress,
    number: int = 1,
    answers: SlicedViT | None = None,
    analysis: BasisAnalysis | None = None,
) -> SearchInputs:
    """Returns what the search method of a run chooses from.

    Args:
        job: the run.
        model: the model to prune.
        whole: plan of the baseline.
        tables: latency tables that the budget or the cost needs.
        place: folder of the search.
        progress: called as the search advances.
        number: of the round, from 1.
        answers: the model whose answers are the labels of images without any; None takes ``model``.
        analysis: of the model, which is in its best bases; None where it is cut as it is.
    """
    settings, by_loss = job.settings, not job.settings.importance
    budget = parse_budget(settings.budget, whole, tables) if job.method.needs_budget else None
    cost = parse_cost(cost_name(settings), whole, tables) if budget else None

    def take_importance() -> Importance:
        if by_loss and analysis is not None:
            return analysis.importance
        return CRITERIA[settings.criterion].importance(_importance_inputs(job, model, progress))

    def draw_images() -> SearchImages:
        images = draw_search_images(
            job.data,
            job.task.preprocessing,
            job.augmentation,
            per_class=settings.importance_images,
            seed=settings.seed,
            iteration=number,
        )
        return images if job.labelled else answered(images, answers or model, job.bf16)

    return SearchInputs(
        model=model,
        settings=job.method_settings,
        budget=budget,
        cost=cost,
        total=cost.of(whole) if cost else 0,
        groups=job.groups,
        data=job.data,
        spec=job.task.preprocessing,
        augmentation=job.augmentation,
        recipe=job.recover,
        take_importance=take_importance,
        draw_images=draw_images,
        gradient_batch=IMPORTANCE_BATCH,
        asked={},
        folder=place,
        seed=settings.seed,
        bf16=job.bf16,
        progress=progress,
        measured=MeasuredUnits(analysis.importance, analysis.cut) if by_loss and analysis else None,
    )


def first_search(job: PreparedRun, folder: RunFolder) -> Path | None:
    """Returns the folder of the search that begins with the baseline; None if its model is cut already."""
    rounds = job.method.kind == "rounds"
    place = folder.iteration(1) if rounds else folder.journal.parent
    done = finished(folder.sliced) is not None or (rounds and finished(place) is not None)
    return None if done else place


def correct_latency(
    job: PreparedRun, folder: RunFolder, baseline: SlicedViT, tables: Tables, progress: Progress
) -> Tables:
    """Returns the latency tables of a run, and corrects that of a budget of time before the search; see ``anchored``.

    The model that is timed is the choice of ``one-shot`` in the best bases, and else the whole model scaled evenly. A
    search that has begun goes on by its table.

    Raises:
        PlanError: the budget cannot be met.
        MeasurementError: a file fails while it is timed.
        StorageError: there is no space, or no permission to write.
    """
    settings, place = job.settings, first_search(job, folder)
    target = latency_target(budget_cost(settings.budget)) if tables else None
    if target is None or place is None or (place / "journal.jsonl").is_file() or not settings.latency_check:
        return tables
    analysis = analysis_of(job, folder, place, baseline, progress) if settings.in_best_bases else None

    def choose(table: LatencyTable) -> tuple[ShapePlan, int]:
        known = {target: table}
        budget = parse_budget(settings.budget, baseline.plan, known)
        if analysis is not None:
            plan, cost = analysis.model.plan, parse_cost(cost_name(settings), baseline.plan, known)
            return propose(plan, analysis.importance, budget, keep_all(plan), job.groups, cost=cost).plan, budget.limit
        even = even_plan(baseline.plan, budget.cost, math.ceil(budget.floor), budget.limit)
        return even or smallest_plan(baseline.plan), budget.limit

    with stage(folder, "time a choice"):
        table = correct_by_choice(
            tables[target], choose, lambda corrected: LATENCY_DOCUMENT.write(folder.latency, corrected), progress
        )
    return {**tables, target: table}


def _importance_inputs(job: PreparedRun, model: SlicedViT, progress: Progress) -> ImportanceInputs:
    """Returns the model and the augmented training images that importance is measured on."""
    images = search_set(job.data, job.settings.importance_images, job.settings.seed)
    batches = training_batches(
        job.data,
        images,
        job.task.preprocessing,
        job.augmentation,
        batch_size=IMPORTANCE_BATCH,
        seed=job.settings.seed,
        epoch=0,
    )
    if not job.labelled:
        batches = with_answers(batches, model, job.bf16)
    total = -(-len(images) // IMPORTANCE_BATCH)
    return ImportanceInputs(model, batches, total, job.settings.seed, job.bf16, progress)
