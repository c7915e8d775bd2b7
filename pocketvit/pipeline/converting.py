"""Exports models of timm that have no plan: whole, by the converters of the engines' makers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from compress.data.class_order import as_checkpoint_knows
from compress.data.data_list import list_data
from compress.data.dataset import Dataset
from compress.model.folder import Task
from compress.model.load import weights_metadata
from compress.model.other import OtherModel, is_other, load_other
from device_bench.timing.isolated import time_isolated
from export.convert.kinds import check_convertible
from export.exporter import check_extras, export_each, released
from pocketvit.settings import RunSettings
from runtime import Artifact, PlanError, Progress, params, silent

from .checks import keep_notes
from .job import export_settings, model_spec, preprocessing_for, source_of, use_threads
from .run_data import data_of_settings
from .runfolder import claim
from .stage import check_written_bytes, export_copies, stage

_WEIGHT_BYTES = 4


@dataclass(frozen=True)
class PreparedConversion:
    """A model without a plan, its task and the data, loaded; nothing is written yet.

    Attributes:
        settings: the settings as given.
        model: the model.
        task: its input and classes.
        data: the dataset, loaded and split.
    """

    settings: RunSettings
    model: OtherModel
    task: Task
    data: Dataset


def needs_converter(settings: RunSettings) -> bool:
    """Returns whether the settings name a model of timm that has no plan.

    Raises:
        ModelError: the model is unknown, or an option does not fit.
        PlanError: sizes do not divide.
    """
    return bool(settings.model) and not settings.embeds and is_other(model_spec(settings))


def prepare_conversion(settings: RunSettings, progress: Progress = silent) -> PreparedConversion:
    """Loads a model without a plan and the data, and checks what can be checked before files are written.

    Raises:
        ModelError: the model is unknown, its weights do not fit, or it does not answer with classes.
        DataError: the data is unknown, missing or too small, or an option is of PocketViT's own writers.
        PlanError: an option belongs to models with a plan.
        MissingExtraError: a converter is not installed.
    """
    use_threads(settings)
    asked, spec = export_settings(settings), model_spec(settings)
    check_extras(asked.kinds)
    check_convertible(asked, settings.model)
    _check_options(settings)
    model = load_other(spec, settings.seed)
    data = data_of_settings(settings, progress)
    brought, own, classes = weights_metadata(replace(spec, img_size=None)), settings.uses_labels, model.plan.num_classes
    known = brought.class_names
    if own and known is not None and sorted(known) == sorted(data.class_names):
        data = as_checkpoint_knows(data, known, bool(settings.class_order or settings.class_map), "")
    names = data.class_names if classes == data.num_classes else tuple(f"class {i}" for i in range(classes))
    if known is not None and len(known) == classes:
        names = known
    task = Task(
        data=settings.data,
        split_seed=settings.seed,
        train_limit=settings.train_limit,
        preprocessing=preprocessing_for(settings, brought, (model.plan.in_chans, *model.plan.img_size), data),
        class_names=names,
        source=source_of(settings, spec, None),
        trained=spec.pretrained or spec.checkpoint is not None,
        origin=spec.hub.place.name if spec.hub and spec.hub.place.repo else None,
        licence=spec.hub.licence if spec.hub else None,
    )
    return PreparedConversion(settings, model, task, data)


def convert(
    settings: RunSettings, root: Path | str, *, resume: bool = False, force: bool = False, progress: Progress = silent
) -> list[Artifact]:
    """Exports a model without a plan, as it is, to ``root/artifacts``.

    Raises:
        RefusedFilesError: some files did not pass their check; raised last, with the manifests of all.
        PocketVitError: see ``prepare_conversion`` and ``export.export_model``.
    """
    job = prepare_conversion(settings, progress)
    with (
        claim(Path(root), settings, resume=resume, force=force, data=list_data(job.data)) as folder,
        stage(folder, "export"),
    ):
        keep_notes(folder, job.data)
        if not folder.artifacts.is_dir():
            copies = export_copies(settings.kinds)
            check_written_bytes(folder.root, copies * _WEIGHT_BYTES * params(job.model.plan))
        asked = export_settings(settings)
        outcome = export_each(
            job.model, job.task, job.data, folder.artifacts, folder.name, asked, progress, time_isolated
        )
        return released(outcome, folder.artifacts)


def _check_options(settings: RunSettings) -> None:
    """Refuses options that a model without a plan has no use for.

    Raises:
        PlanError: one of them is given.
    """
    given = {"--patch-size": settings.patch_size is not None, "--reset-head": settings.reset_head}
    named = [option for option, there in given.items() if there]
    if named:
        raise PlanError(
            f"'{settings.model}' is exported whole, as it is",
            expected=f"no {' and no '.join(named)}",
            fix="Leave it out",
        )
