"""The cells of a study: every method on every model, data, budget and seed, checked before any work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compress.distill.loss import check_distillation
from compress.search import METHODS
from export.formats import KINDS
from export.quantise.processors import host_processor
from pocketvit.distill_settings import DistillSettings
from pocketvit.jobs.distilling import pictures_of, teacher_of
from pocketvit.options import arguments, distill_options, distill_settings, export_options, run_options, run_settings
from pocketvit.pipeline.bases import whole_model
from pocketvit.pipeline.job import PreparedRun, prepare
from pocketvit.settings import RunSettings
from runtime import PlanError, PocketVitError, Progress, ShapePlan, silent

from .baselines import baseline_key
from .definition import CellOptions, Method, Study
from .options import cell_options, check_options


@dataclass(frozen=True)
class StudyCell:
    """One run of a study.

    Attributes:
        name: name of its folder, which its files begin with.
        method: name of the method.
        model: name of the model.
        data: dataset, as ``--data`` takes it.
        budget: budget, as ``--budget`` takes it; empty for distillation and for zeros, which have none.
        seed: seed of everything random.
        command: command that makes the smaller model.
        words: options of that command.
        export_words: options of ``export`` after it.
        settings: settings of the run.
        lesson: settings of the distillation; None for other cells.
        baseline: key of the fine-tuned model that it starts from; None if it shares no such model.
        timed_export: whether a recipe of its files is chosen by time, so that nothing else may run meanwhile.
        formats: kinds of files that it exports.
    """

    name: str
    method: str
    model: str
    data: str
    budget: str
    seed: int
    command: str
    words: tuple[str, ...]
    export_words: tuple[str, ...]
    settings: RunSettings
    lesson: DistillSettings | None
    baseline: str | None
    timed_export: bool
    formats: tuple[str, ...]

    @property
    def group(self) -> tuple[str, str, str, str]:
        """The method, model, data and budget, which it shares with its repetitions under other seeds."""
        return self.method, self.model, self.data, self.budget


def cells_of(study: Study) -> tuple[StudyCell, ...]:
    """Returns the cells of a study, method by method, seeds innermost.

    Raises:
        PlanError: an option is unknown or has a wrong value, or two cells have one name.
    """
    _check_tables(study)
    cells = tuple(_all(study))
    names = [cell.name for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(
            f"Two cells of {study.path} would have one name", got=twice[0], fix="Rename their data or budgets"
        )
    exported = {kind for cell in cells for kind in cell.formats}
    missing = [kind for kind in study.measure.formats if kind not in exported]
    if missing:
        raise PlanError(
            f"[measure] formats of {study.path} names files that no cell exports",
            expected=f"some of {', '.join(kind for kind in KINDS if kind in exported)}",
            got=", ".join(missing),
        )
    return cells


def check_cells(study: Study, cells: Sequence[StudyCell], progress: Progress = silent) -> dict[str, ShapePlan]:
    """Loads data, builds models and reads budgets as the runs will, once for all seeds of a cell.

    Returns:
        The plan of each cell's model, by the cell's name.

    Raises:
        PocketVitError: a cell is invalid.
    """
    kinds = {cell.group: cell for cell in reversed(cells)}
    plans = {}
    for position, cell in enumerate(kinds.values()):
        progress("check", position, len(kinds), cell.name)
        try:
            job = prepare(cell.settings)
            plans[cell.group] = job.plan
            if cell.lesson is not None:
                _check_distillation(job, cell.lesson)
        except PocketVitError as error:
            raise type(error)(f"{cell.name}, a cell of {study.path}, cannot be: {error}") from error
    progress("check", len(kinds), len(kinds))
    return {cell.name: plans[cell.group] for cell in cells}


def slug(text: str) -> str:
    """Returns a text that can be part of a file's name.

    >>> slug("macs=0.75"), slug("imagefolder:/data/Cats and dogs/")
    ('macs-0.75', 'Cats-and-dogs')
    """
    last = text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9.]+", "-", last).strip("-.") or "x"


def _check_distillation(job: PreparedRun, lesson: DistillSettings) -> None:
    """Checks that teacher, student and pictures exist and fit each other."""
    pictures_of(job, lesson)
    student = whole_model(job)
    check_distillation(lesson.distillation, teacher_of(job, lesson), student)


def _check_tables(study: Study) -> None:
    no_budget = {key: own for key, own in cell_options("run").items() if key != "budget"}
    if "budget" in {**study.common, **{key: 1 for own in study.models.values() for key in own}}:
        raise PlanError(f"{study.path} sets a budget for all methods", fix="Name it in [study] budgets")
    check_options(f"[common] of {study.path}", study.common, no_budget)
    for name, options in study.models.items():
        check_options(f"[models.{name}] of {study.path}", options, no_budget)
    for name, method in study.methods.items():
        where = f"[methods.{name}] of {study.path}"
        check_options(where, method.options, cell_options(method.command))
        if "student" in method.options:
            raise PlanError(f"{where} names a student, which brings its own data and seed", fix="Name a model instead")


def _all(study: Study) -> Iterator[StudyCell]:
    for method_name, method in study.methods.items():
        for model_name in study.models:
            for data in study.data:
                for budget in _budgets(study, method, study.models[model_name]):
                    for seed in study.seeds:
                        yield _cell(study, method_name, model_name, data, budget, seed)


def _budgets(study: Study, method: Method, model: CellOptions) -> tuple[str, ...]:
    search = str({**study.common, **model, **method.options}.get("search", "one-shot"))
    # a student and zeros leave the widths of a model as they are
    if method.command == "distill" or (search in METHODS and not METHODS[search].needs_budget):
        return ("",)
    own = method.options.get("budget")
    return study.budgets if own is None else (str(own),)


def _cell(study: Study, method_name: str, model_name: str, data: str, budget: str, seed: int) -> StudyCell:
    method = study.methods[method_name]
    where = f"[methods.{method_name}] of {study.path}"
    given: CellOptions = {
        **({"latency-check": False} if budget.startswith("latency") else {}),  # a cell shares its machine with others
        **study.common,
        **study.models[model_name],
        **method.options,
        **({"budget": budget} if budget else {}),
        **{"data": data, "seed": seed, "threads": study.threads},
    }
    lesson: DistillSettings | None = None
    try:
        exported = run_settings({key: own for key, own in given.items() if key in export_options()})
        if method.command == "distill":
            settings, lesson = distill_settings(given)
        else:
            settings = run_settings(given)
    except PocketVitError as error:
        raise type(error)(f"{where} cannot be: {error}") from error
    parts = (method_name, model_name, slug(data), slug(budget) if budget else "", f"s{seed}")
    return StudyCell(
        name=".".join(filter(None, parts)),
        method=method_name,
        model=model_name,
        data=data,
        budget=budget,
        seed=seed,
        command="distill" if lesson else "compress",
        words=arguments(given, distill_options() if lesson else run_options()),
        export_words=arguments(given, export_options()),
        settings=settings,
        lesson=lesson,
        baseline=baseline_key(settings, lesson),
        timed_export=_timed(exported),
        formats=exported.kinds,
    )


def _timed(settings: RunSettings) -> bool:
    """Whether some kind of file is made by the recipe that is fastest on this machine."""
    fastest = any(KINDS[name].choice == "fastest" for name in settings.kinds)
    return fastest and settings.made_for == host_processor() and not settings.int8_recipe
