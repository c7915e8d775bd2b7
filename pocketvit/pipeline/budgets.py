"""Runs of several budgets: one first training, one latency table and one analysis, and a whole run for each budget."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from compress.budget import budget_cost, check_distinct, latency_target, parse_budget
from compress.data.data_list import list_data
from compress.model.vit import SlicedViT
from device_bench.report.summary import RunSummary, summarise
from export.exporter import check_extras
from pocketvit.settings import RunSettings
from runtime import PlanError, Progress, atomic_path, check_is, message, silent

from .bases import analysis_of, bases_path
from .benching import BenchSettings
from .checks import keep_notes
from .job import PreparedRun, export_settings, prepare, with_budget
from .run import all_stages, check_before
from .runfolder import RunFolder, adopt_baseline, check_place, claim
from .searching import first_search
from .stage import TRAINED_COPIES, check_written_bytes, finished, stage, written_bytes
from .stages import as_begun, fine_tune_stage, latency_stage, shrink_stages

Finish = Callable[[PreparedRun, RunFolder], None]


def run_budgets(
    settings: RunSettings,
    budgets: Sequence[str],
    root: Path | str,
    *,
    resume: bool = False,
    force: bool = False,
    bench: BenchSettings | None = None,
    progress: Progress = silent,
) -> tuple[RunSummary, ...]:
    """Does a run for each budget, and the work that does not depend on the budget once.

    The first training, the latency table and the analysis of the best bases are made once. Each run folder is complete
    by itself: weights that several folders hold are hard links of one file where the file system has them, and copies
    elsewhere.

    Args:
        settings: what to make smaller and how; its ``budget`` is not used.
        budgets: the budgets, as ``RunSettings.budget`` takes them.
        root: the common beginning of the folders: ``runs/mine`` makes ``runs/mine-macs-0.75`` for ``macs=0.75``.
        resume: continue runs that were stopped; budgets without a folder are begun.
        force: replace existing runs.
        bench: what to measure of the files, and how long.
        progress: called as the work advances.

    Returns:
        The table of each run, in the order of the budgets.

    Raises:
        PlanError: a budget is no budget, is there twice or cannot be met, or the search method takes none.
        PocketVitError: a stage failed; see ``pocketvit.run``. The runs before it are complete.
    """

    def finish(job: PreparedRun, folder: RunFolder) -> None:
        all_stages(job, folder, bench or BenchSettings(), progress)

    check_is(settings, RunSettings)
    check_extras(export_settings(settings).kinds)
    return _each(settings, budgets, Path(root), resume, force, finish, progress)


def compress_budgets(
    settings: RunSettings,
    budgets: Sequence[str],
    root: Path | str,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[RunSummary, ...]:
    """Does the first half of ``run_budgets``: a smaller, recovered model in the ``sliced`` folder of each run.

    Raises:
        PlanError: see ``run_budgets``.
        PocketVitError: a stage failed; see ``pocketvit.run``. The runs before it are complete.
    """

    def finish(job: PreparedRun, folder: RunFolder) -> None:
        shrink_stages(job, folder, progress)

    check_is(settings, RunSettings)
    return _each(settings, budgets, Path(root), resume, force, finish, progress)


def place_of(root: Path, budget: str) -> Path:
    """Returns the folder of a budget's run.

    >>> place_of(Path("runs/mine"), "latency=12ms@cpu").name
    'mine-latency-12ms-cpu'
    """
    return root.with_name(f"{root.name}-{re.sub('[^A-Za-z0-9.]+', '-', budget.strip())}")


def _each(
    settings: RunSettings,
    budgets: Sequence[str],
    root: Path,
    resume: bool,
    force: bool,
    finish: Finish,
    progress: Progress,
) -> tuple[RunSummary, ...]:
    _check_texts(budgets, root)
    places = [place_of(root, budget) for budget in budgets]
    for place in places:
        check_place(place, resume=resume, force=force)
    first = prepare(replace(settings, budget=budgets[0]), progress)
    jobs = [with_budget(first, budget) for budget in budgets]
    _check_limits(jobs)
    checked = check_before(first, places, resume, progress)
    with ExitStack() as claims:
        folders = [
            claims.enter_context(claim(place, job.settings, resume=resume, force=force, data=list_data(job.data)))
            for place, job in zip(places, jobs, strict=True)
        ]
        pairs = list(zip(jobs, folders, strict=True))
        for job, folder in pairs:
            keep_notes(folder, job.data, [checked])
        _check_space(root, pairs)
        for job, folder in pairs:
            latency_stage(job, folder, progress)
        baseline = _share_baseline(first, folders, progress)
        _share_analysis([(as_begun(job, folder), folder) for job, folder in pairs], baseline, progress)
        for number, (job, folder) in enumerate(pairs, 1):
            message(progress, "budget", f"{job.settings.budget} ({number} of {len(pairs)})")
            finish(job, folder)
    return tuple(summarise(folder.root) for folder in folders)


def _check_texts(budgets: Sequence[str], root: Path) -> None:
    """Refuses budgets that state the same, or whose runs would have the same folder."""
    check_distinct(budgets)
    for one, other in combinations(budgets, 2):
        if place_of(root, one) == place_of(root, other):
            raise PlanError(
                "The runs of two budgets would have the same folder",
                expected="budgets that differ in letters, digits or dots",
                got=f"{one} and {other}",
            )


def _check_limits(jobs: Sequence[PreparedRun]) -> None:
    """Refuses two budgets that are the same for this model; times are not compared."""
    known: dict[tuple[str, int], str] = {}
    for job in jobs:
        text = job.settings.budget
        if latency_target(budget_cost(text)):
            continue
        own = parse_budget(text, job.plan)
        before = known.setdefault((own.cost.name, own.limit), text)
        if before != text:
            raise PlanError("Two budgets are the same for this model", got=f"{before} and {text}", fix="Leave one out")


def _check_space(root: Path, pairs: Sequence[tuple[PreparedRun, RunFolder]]) -> None:
    new = [job for job, folder in pairs if not (folder.baseline / "metrics.json").is_file()]
    if new:
        check_written_bytes(root, sum(written_bytes(job.plan, TRAINED_COPIES) for job in new))


def _share_baseline(job: PreparedRun, folders: Sequence[RunFolder], progress: Progress) -> SlicedViT:
    """Trains the model in one of the folders, unless one has it, and gives it to the others."""
    has = {folder.root: finished(folder.baseline) for folder in folders}
    donor = next((folder for folder in folders if has[folder.root] is not None), folders[0])
    baseline = has[donor.root] or fine_tune_stage(job, donor, progress)
    for folder in folders:
        if folder is not donor and has[folder.root] is None:
            adopt_baseline(folder, donor.baseline, _link_weights)
            folder.log("shared", what="baseline", run=donor.name)
    return baseline


def _share_analysis(pairs: Sequence[tuple[PreparedRun, RunFolder]], baseline: SlicedViT, progress: Progress) -> None:
    """Finds the best bases in one of the folders, if several models are still to be cut in them, for all of these."""
    waiting = [
        (job, folder, place)
        for job, folder in pairs
        if job.settings.in_best_bases and (place := first_search(job, folder)) is not None
    ]
    missing = [own for own in waiting if not bases_path(own[2]).is_file()]
    if len(waiting) < 2 or not missing:
        return
    job, donor, source = next((own for own in waiting if own not in missing), waiting[0])
    with stage(donor, "bases"):
        analysis_of(job, donor, source, baseline, progress)
    for _, folder, place in missing:
        if folder is donor:
            continue
        with atomic_path(bases_path(place)) as temporary:
            _link(str(bases_path(source)), str(temporary))
        folder.log("shared", what="bases", run=donor.name)


def _link_weights(source: str, target: str) -> None:
    """Links a file of weights, which are never changed in place, and copies any other file."""
    if source.endswith(".safetensors"):
        _link(source, target)
    else:
        shutil.copy2(source, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copy2(source, target)
