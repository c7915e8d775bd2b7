"""Preparation of a run: its settings are checked and filled in before any work starts."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch

from compress.budget import budget_cost, latency_target, parse_budget, parse_cost
from compress.data.augment import Augmentation, augmentation_for
from compress.data.dataset import Dataset
from compress.devices import choose_device, count_gpus, use_device
from compress.distill.settings import Distillation, DistillMethod
from compress.distributed import current_ranks
from compress.model.checkpoint_fit import LoadReport
from compress.model.folder import Task
from compress.model.hub.place import short_name
from compress.model.load import (
    ModelSpec,
    check_model,
    default_classes,
    load_checkpoint_report,
    weights_metadata,
)
from compress.model.metadata import WeightsMetadata, is_stretched
from compress.recipe import FINE_TUNE, RECOVER, SCRATCH, SCRATCH_RECOVER, TrainRecipe
from compress.search import METHODS
from compress.search.base import GroupSizes, SearchMethod, usual_groups
from compress.text_embeddings import TextEmbeddings
from compress.train.fit import bf16_helps
from device_bench.targets.bench import time_together
from export.formats.micro_limits import MicroLimits
from export.settings import ExportSettings
from pocketvit.embedding import check_no_embedding
from pocketvit.settings import (
    DEFAULT_IMG_SIZE,
    DEFAULT_MODEL,
    DEFAULT_OVERRIDES,
    DEFAULT_PATCH_SIZE,
    RunSettings,
)
from pocketvit.train_settings import TrainSettings
from runtime import ModelError, PlanError, PocketVitWarning, Preprocessing, Progress, ShapePlan, check_is, silent

from .label_free import check_answers_already, left_out_classifier, named_outputs, without_labels
from .run_data import data_of_settings
from .task_model import check_tower, in_order_of_outputs, plan_of_task, resampled_notes, spec_of_task, texts_of

IMPORTANCE_BATCH = 16
"""Images of one gradient; importance is the mean over such batches."""


@dataclass(frozen=True)
class PreparedRun:
    """The settings of a run, checked and filled in, with its data; nothing is written yet.

    Attributes:
        settings: the settings as given.
        data: the dataset, loaded and split.
        spec: the model to start from.
        plan: plan of that model.
        task: input and classes of that model.
        fine_tune: recipe of the first training.
        recover: recipe of the training after slicing.
        lesson: the distillation of the recovery; None without distillation.
        augmentation: random changes to training pictures.
        bf16: whether to train in bfloat16.
        groups: how many units one removal takes.
        fine_tuned: whether the weights are expected to know the data's classes without training here.
        knows_classes: whether the checkpoint itself names its classes.
        labelled: whether labels are read. Without them nothing is trained before the search, images are drawn at
            random, and the recovery learns from the whole model alone.
        notes: remarks on the checkpoint for the user, a sentence each.
        resampled: the parts of the checkpoint that were resampled, with both sizes.
        texts: the texts that a zero-shot classifier compares images with; None for another model.
    """

    settings: RunSettings
    data: Dataset
    spec: ModelSpec
    plan: ShapePlan
    task: Task
    fine_tune: TrainRecipe
    recover: TrainRecipe
    lesson: Distillation | None
    augmentation: Augmentation
    bf16: bool
    groups: GroupSizes
    fine_tuned: bool = False
    knows_classes: bool = False
    labelled: bool = True
    notes: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()
    texts: TextEmbeddings | None = None

    @property
    def method(self) -> SearchMethod:
        """The search method of the run."""
        return METHODS[self.settings.search]

    @property
    def method_settings(self) -> Any:
        """The settings of the search method; None where it has none."""
        return self.settings.search_settings

    def training(self, place: Path, stage: str, progress: Progress, number: int = 0) -> dict[str, Any]:
        """Returns the arguments of ``compress.train.fit.fit`` that all trainings of the run share.

        Args:
            place: folder of the training's state.
            stage: name of the training for ``progress``.
            progress: called after every step.
            number: number of the round, which the seed depends on.
        """
        return {
            "augmentation": self.augmentation,
            "seed": self.settings.seed + number,
            "bf16": self.bf16,
            "state_path": place / "training.safetensors",
            "stage": stage,
            "progress": progress,
        }


def prepare(settings: RunSettings, progress: Progress = silent, own_classes: bool = False) -> PreparedRun:
    """Checks everything that can be checked before any work starts, and loads the data.

    Args:
        settings: the settings of the run.
        progress: called while a folder's pictures are checked.
        own_classes: take the number of classes from the weights, not from the data.

    Raises:
        ModelError: the model is unknown or unsupported, its checkpoint does not fit, or there are no labels and its
            weights do not answer yet.
        DataError: the data is unknown, missing or too small.
        PlanError: sizes do not divide, or the budget cannot be met.
        UnsupportedTargetError: there is no such GPU.

    Warns:
        PocketVitWarning: a remark on the checkpoint for the user.
    """
    check_is(settings, RunSettings)
    check_no_embedding({"--min-cosine": settings.min_cosine is not None and not settings.embeds})
    use_threads(settings)
    ranks = current_ranks()
    use_device(choose_device(settings.device, count_gpus(), ranks.local_rank, ranks.local_size))
    export_settings(settings)
    spec, texts = model_spec(settings), texts_of(settings)
    check_model(spec)
    if texts is not None and not own_classes:
        check_tower(spec)
    report = load_checkpoint_report(spec) if spec.checkpoint else None
    known = report.classes if report else None
    labelled = settings.uses_labels
    if not labelled and not own_classes:
        check_answers_already(spec, report, vectors=settings.embeds or texts is not None)
    notes = (*report.notes, *resampled_notes(report, settings, own_classes)) if report else ()
    if settings.embeds or texts is not None:
        notes = (*notes, *left_out_classifier(spec, known, settings.task), *(texts.notes if texts else ()))
    for note in notes:
        warnings.warn(note, PocketVitWarning, stacklevel=2)
    data = data_of_settings(settings, progress)
    fresh = not (spec.pretrained or spec.checkpoint)
    if settings.in_chans is None and fresh:
        spec = replace(spec, in_chans=data.channels)
    brought = weights_metadata(spec)
    data, own_names = in_order_of_outputs(settings, spec, data, texts or brought.class_names, own_classes)
    classes = data.num_classes
    if texts is not None:
        classes = len(texts.names)
    elif not labelled or (own_classes and not settings.reset_head and (known or settings.model)):
        classes = known or default_classes(spec)
    elif known not in (None, classes) and not settings.reset_head:
        raise ModelError(
            f"The checkpoint {spec.checkpoint} has another number of classes than the data",
            expected=classes,
            got=known,
            fix="Choose the data it was trained on, or give --reset-head to train a new classifier",
        )
    plan = plan_of_task(settings, spec, classes, texts)
    _check_cost(settings, plan)
    names = data.class_names if classes == data.num_classes else tuple(f"class {i}" for i in range(classes))
    if own_names is not None and len(own_names) == classes:
        names = own_names
    if settings.embeds:
        names = ()
    elif not labelled:
        names = named_outputs(settings, names)
        data = replace(data, class_names=names)
    tower = settings.embeds or texts is not None
    headless = spec.checkpoint is not None and not tower and (settings.reset_head or known is None)
    task = Task(
        data=settings.data,
        split_seed=settings.seed,
        train_limit=settings.train_limit,
        preprocessing=preprocessing_for(settings, brought, (plan.in_chans, *plan.img_size), data),
        class_names=names,
        source=source_of(settings, spec, report),
        trained=not (fresh or headless) or not own_classes,
        origin=spec.hub.place.name if spec.hub and spec.hub.place.repo else None,
        licence=spec.hub.licence if spec.hub else None,
    )
    already_trained = (
        not labelled or texts is not None or (report is not None and not headless and not report.patch_resampled)
    )
    fine_tune = _recipe(SCRATCH if fresh else FINE_TUNE, settings.fine_tune, settings, 0 if already_trained else None)
    recover = _recipe(SCRATCH_RECOVER if fresh else RECOVER, settings.recover, settings)
    bf16 = settings.bf16 == "on" or (settings.bf16 == "auto" and bf16_helps(plan))
    groups = _group_sizes(settings, plan)
    changes = augmentation_for(data)
    lesson = _lesson(settings)
    knows = (report is not None and not headless) or (
        spec.pretrained and (texts is not None or default_classes(spec) == classes)
    )
    fine_tuned = labelled and knows and (own_classes or fine_tune.epochs == 0) and names == data.class_names
    return PreparedRun(
        *(settings, data, spec, plan, task, fine_tune, recover, lesson, changes, bf16, groups),
        fine_tuned=fine_tuned,
        knows_classes=own_names is not None,
        labelled=labelled,
        notes=notes,
        resampled=report.resampled if report else (),
        texts=texts,
    )


def with_budget(job: PreparedRun, budget: str) -> PreparedRun:
    """Returns the same run with another budget.

    Raises:
        PlanError: the budget cannot be met, or the search method takes none.
    """
    settings = replace(job.settings, budget=budget)
    _check_cost(settings, job.plan)
    return replace(job, settings=settings)


def _lesson(settings: RunSettings) -> Distillation | None:
    methods = cast(tuple[DistillMethod, ...], settings.distill_methods)
    lesson = Distillation(methods=methods, weight=settings.distill_weight, temperature=settings.temperature)
    if not settings.uses_labels:
        lesson = without_labels(lesson)
    return lesson if settings.distill else None


def cost_name(settings: RunSettings) -> str:
    """Returns the name of the cost that removals are ranked by: ``settings.cost``, or the cost of the budget."""
    return settings.cost or budget_cost(settings.budget)


def profiled_target(settings: RunSettings) -> str | None:
    """Returns the target whose latency table the budget or the cost needs; None for neither.

    Raises:
        PlanError: the cost and the budget are of two targets.
    """
    if not METHODS[settings.search].needs_budget:
        return None
    targets = {latency_target(name) for name in (cost_name(settings), budget_cost(settings.budget))} - {None}
    if len(targets) > 1:
        raise PlanError("--cost and --budget name two targets", got=", ".join(sorted(map(str, targets))))
    return targets.pop() if targets else None


def _check_cost(settings: RunSettings, plan: ShapePlan) -> None:
    """Refuses a cost or a budget that cannot be met; one of time is checked when its table is known."""
    method = METHODS[settings.search]
    if not method.needs_budget:
        return
    target = profiled_target(settings)
    if target is None:
        parse_budget(settings.budget, plan)
    else:
        time_together(target)
    if latency_target(cost_name(settings)) is None:
        parse_cost(cost_name(settings), plan)
    if not method.any_cost and cost_name(settings) != budget_cost(settings.budget):
        raise PlanError(
            f"{method.name} goes by what the budget counts",
            expected=f"no --cost, or --cost {budget_cost(settings.budget)}",
            got=settings.cost,
            fix="Give a budget of that cost, or another --search",
        )


def export_settings(settings: RunSettings) -> ExportSettings:
    """Returns the export settings of a run.

    Raises:
        DataError: a value is out of range.
    """
    shared = {own.name: getattr(settings, own.name) for own in fields(ExportSettings) if own.name != "micro"}
    return ExportSettings(**shared, micro=MicroLimits(settings.micro_flash, settings.micro_ram))


def use_threads(settings: RunSettings) -> None:
    """Sets the number of torch's threads; results are repeatable for equal numbers."""
    share = (os.cpu_count() or 1) // current_ranks().local_size
    torch.set_num_threads(settings.threads or max(1, share))


def model_spec(settings: RunSettings) -> ModelSpec:
    """Returns the model that the settings name, with what its repository or folder brings."""
    channels = 3 if settings.in_chans is None else settings.in_chans
    if channels not in (1, 3):
        raise PlanError("Images have 1 or 3 channels", got=channels, fix="Give --in-chans 1 or 3")
    builtin = not settings.model
    spec = ModelSpec(
        name=settings.model or DEFAULT_MODEL,
        img_size=DEFAULT_IMG_SIZE if builtin and settings.img_size is None else settings.img_size,
        patch_size=DEFAULT_PATCH_SIZE if builtin and settings.patch_size is None else settings.patch_size,
        in_chans=channels,
        pretrained=bool(settings.pretrained),
        checkpoint=Path(settings.checkpoint).expanduser() if settings.checkpoint else None,
        reset_head=settings.reset_head or settings.embeds or settings.text_embeddings is not None,
        overrides={**(DEFAULT_OVERRIDES if builtin and not settings.pretrained else {}), **settings.model_args},
    )
    spec = spec if builtin and not settings.embeds else spec_of_task(settings, spec)
    if spec.hub is None:
        if settings.reset_head and spec.checkpoint is None:
            raise PlanError("--reset-head needs --checkpoint, or a --model that brings its weights")
        return spec
    if settings.pretrained is False:
        raise PlanError(
            f"'{settings.model}' brings its weights", expected="no --no-pretrained", fix="Leave --no-pretrained out"
        )
    return replace(spec, in_chans=spec.hub.channels) if settings.in_chans is None else spec


def preprocessing_for(
    settings: RunSettings, brought: WeightsMetadata, image: tuple[int, int, int], data: Dataset
) -> Preprocessing:
    """Returns how a picture becomes an ``image`` of channels, height, width: by options, or as the weights expect."""
    channels, height, width = image
    stretch = settings.crop_pct is None and not brought.exact and is_stretched(data.size, height, width)
    if settings.resize:
        stretch = settings.resize == "stretch"
    usual = brought.preprocessing(height, width, stretch=stretch)
    asked: dict[str, Any] = {
        "mean": settings.mean and _each_channel(settings.mean, channels),
        "std": settings.std and _each_channel(settings.std, channels),
        "interpolation": settings.interpolation,
        "resize": settings.resize,
        "crop_pct": settings.crop_pct,
    }
    return replace(usual, **{name: value for name, value in asked.items() if value})


def _each_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Returns one value for every channel; a single value serves all channels, as in timm."""
    return values * channels if len(values) == 1 else values


def source_of(settings: RunSettings, spec: ModelSpec, report: LoadReport | None) -> str:
    """Returns the origin of the weights, in words."""
    if settings.text_embeddings is not None:
        texts = Path(settings.text_embeddings).name
        return f"{source_of(replace(settings, text_embeddings=None), spec, report)}, text embeddings of {texts}"
    if spec.checkpoint is not None:
        changed = f", resampled: {', '.join(report.resampled)}" if report and report.resampled else ""
        if spec.hub is not None:
            place = spec.hub.place
            return f"{spec.hub.kind} of {place.name if place.repo else short_name(place.name)}{changed}"
        return f"timm {spec.name}, weights from {spec.checkpoint.name}{changed}"
    return f"timm {spec.name}, {'published' if settings.pretrained else 'fresh'} weights, seed {settings.seed}"


def _recipe(base: TrainRecipe, changes: TrainSettings, settings: RunSettings, epochs: int | None = None) -> TrainRecipe:
    values: dict[str, Any] = {"distill_weight": settings.distill_weight, "temperature": settings.temperature}
    if epochs is not None:
        values["epochs"] = epochs
    for name in ("epochs", "batch_size", "lr", "head_lr", "patience", "minutes"):
        if getattr(changes, name) is not None:
            values[name] = getattr(changes, name)
    if changes.lr is not None and changes.head_lr is None:
        values["head_lr"] = changes.lr * base.head_lr / base.lr
    return replace(base, **values)


def _group_sizes(settings: RunSettings, plan: ShapePlan) -> GroupSizes:
    unknown = sorted(set(settings.group_sizes) - {"mlp", "qk", "v", "embed"})
    if unknown:
        raise PlanError("Unknown kind of group", expected="mlp, qk, v or embed", got=", ".join(unknown))
    usual = usual_groups(plan) if settings.in_best_bases else GroupSizes()
    return replace(usual, **settings.group_sizes)
