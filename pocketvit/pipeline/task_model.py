"""What a run makes of an architecture: its weights as they are asked for, its plan, and the order of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compress.data.class_order import as_checkpoint_knows
from compress.data.dataset import Dataset
from compress.model.checkpoint_fit import LoadReport
from compress.model.embedder import embedder_plan, embedding_spec, grid_plan
from compress.model.folder import Task
from compress.model.load import ModelSpec, check_model, resolved
from compress.model.vit import SlicedViT
from compress.text_embeddings import TextEmbeddings, as_texts_name, read_text_embeddings
from compress.zero_shot import zero_shot_plan, zero_shot_spec
from pocketvit.settings import RunSettings
from runtime import ModelError, RunFolderError, ShapePlan


def texts_of(settings: RunSettings) -> TextEmbeddings | None:
    """Returns the texts that a zero-shot classifier compares images with; None for another model.

    Raises:
        DataError: the file cannot be read or holds something else.
    """
    if settings.text_embeddings is None:
        return None
    return read_text_embeddings(Path(settings.text_embeddings).expanduser())


def check_same_texts(texts: TextEmbeddings | None, model: SlicedViT, task: Task, folder: Path) -> None:
    """Refuses to continue a run with other texts than it was begun with.

    Args:
        texts: what ``texts_of`` returned.
        model: the whole model of the run.
        task: its task.
        folder: of the run.

    Raises:
        RunFolderError: the names or the vectors differ.
    """
    if texts is None or model.text is None:
        return
    same = task.class_names == texts.names and torch.equal(model.text.weight, torch.from_numpy(texts.weight))
    if not (same and bool((model.text.bias == float(np.float32(texts.bias))).all())):
        raise RunFolderError(
            f"The text embeddings {texts.path} have changed since the run {folder} was begun",
            expected="the names and vectors of its whole model",
            fix="Put the file back as it was, replace the run with --force, or choose another --name",
        )


def check_tower(spec: ModelSpec) -> None:
    """Refuses an image tower with fresh weights, which belongs to no texts.

    Raises:
        ModelError: the weights are fresh.
    """
    if spec.checkpoint is None and not spec.pretrained:
        raise ModelError(
            f"The image tower '{spec.name}' has fresh weights, which were not trained with texts",
            expected="the weights that the text embeddings belong to",
            fix="Give --pretrained or --checkpoint FILE",
        )


def spec_of_task(settings: RunSettings, spec: ModelSpec) -> ModelSpec:
    """Returns the spec of a named model, without the classifier or the projection that its task does without.

    Raises:
        ModelError: the repository or folder cannot be read.
        DataError: the text embeddings cannot be read, or do not belong to the model.
    """
    texts = texts_of(settings)
    if texts is not None:
        return zero_shot_spec(spec, texts)
    if settings.task == "dense":
        return resolved(replace(spec, reset_head=True))
    return embedding_spec(spec) if settings.embeds else resolved(spec)


def plan_of_task(
    settings: RunSettings, spec: ModelSpec, classes: int, texts: TextEmbeddings | None = None
) -> ShapePlan:
    """Returns the plan of the model that a run starts from.

    Args:
        settings: of the run.
        spec: what ``spec_of_task`` returned.
        classes: number of classes, for a classifier.
        texts: what ``texts_of`` returned.

    Raises:
        ModelError: the name is unknown, or the architecture is not supported.
        DataError: the text embeddings do not belong to the model.
        PlanError: the vector cannot be so long, or there is no such block.
    """
    if texts is not None:
        return zero_shot_plan(spec, texts)
    if settings.task == "dense":
        return grid_plan(spec, settings.blocks)
    if settings.task == "embed":
        return embedder_plan(spec, settings.output, settings.embed_dim)
    return check_model(spec, classes)


def in_order_of_outputs(
    settings: RunSettings,
    spec: ModelSpec,
    data: Dataset,
    known: TextEmbeddings | Sequence[str] | None,
    own_classes: bool,
) -> tuple[Dataset, tuple[str, ...] | None]:
    """Returns the data with its classes in the order of the outputs, and the names of the outputs if they are known.

    Args:
        settings: of the run.
        spec: the model.
        data: the data, in the requested order of classes or in text order.
        known: the texts of a zero-shot classifier, or the names that the weights bring; None without names.
        own_classes: whether the data may have other classes, whose labels are then not used.

    Raises:
        DataError: the data has other classes than the outputs, or they are asked for in another order.
    """
    names = tuple(known.names if isinstance(known, TextEmbeddings) else known or ()) or None
    if names is None or not settings.uses_labels:
        return data, names
    others, asked = sorted(names) != sorted(data.class_names), bool(settings.class_order or settings.class_map)
    if isinstance(known, TextEmbeddings):
        return (data if own_classes and others else as_texts_name(data, known)), names
    if spec.hub is not None and (asked or spec.hub.names_guessed) and not own_classes and others:
        return data, None  # labels in other words than the folders, whose order the user gives
    if own_classes and others:
        return data, names
    cure = ". Where they are the same classes in other words, give their order with --class-map or --class-order"
    return as_checkpoint_knows(data, names, asked, cure if spec.hub else ""), names


def resampled_notes(report: LoadReport, settings: RunSettings, own_classes: bool) -> tuple[str, ...]:
    """Returns a note on the training of resampled weights, unless ``--epochs`` decides it."""
    if not report.resampled or report.classes is None or settings.reset_head or settings.fine_tune.epochs is not None:
        return ()
    if not settings.uses_labels:
        return ("Resampled weights are taken as they are, since nothing trains them without labels",)
    if settings.text_embeddings is not None:
        return ("Resampled weights are taken as they are: --epochs 30 trains them at this size first",)
    if own_classes:
        return ("Resampled weights are exported as they are: fine-tune them first with pocketvit run",)
    if report.patch_resampled:
        return (
            "Weights for other patches do not count as fine-tuned: they are trained first; --epochs 0 takes them as is",
        )
    return ("Weights with resampled positions count as fine-tuned: --epochs 30 trains them at this size first",)
