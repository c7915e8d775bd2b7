"""Teachers: any timm classifier, a Hugging Face checkpoint, a model of a run, or an exported file."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.devices import copy_on, device_in_use
from compress.evaluate import Score, evaluating, logits_of, score, score_of_logits
from compress.model.checkpoint_file import check_finite_weights, open_checkpoint
from compress.model.checkpoint_fit import weights_needed
from compress.model.folder import read_model, read_task, weights_sha256
from compress.model.load import ModelSpec, load_model, resolved
from compress.model.metadata import is_stretched, names_in_checkpoint, timm_metadata
from compress.model.timm_vit import to_timm
from compress.model.vit import SlicedViT
from runtime import (
    METRICS_DOCUMENT,
    ArtifactError,
    MissingExtraError,
    ModelError,
    Preprocessing,
    Progress,
    Session,
    check_fields,
    load,
    silent,
)

from .outputs import Network, outputs_of

try:
    import timm
    from timm.data import resolve_data_config
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None


@dataclass(frozen=True)
class Teacher:
    """A network that a student learns from.

    Attributes:
        name: description in words.
        network: a ``SlicedViT``, a timm network, or an exported file.
        preprocessing: the teacher's input.
        num_classes: number of its logits, which are in the order of the student's classes.
        spec: architecture and weights of a timm network; None for other networks.
    """

    name: str
    network: Network
    preprocessing: Preprocessing
    num_classes: int
    spec: TimmSpec | None = None

    def identity(self) -> str:
        """Returns a text that differs between teachers with different weights."""
        if isinstance(self.network, Session):
            return self.network.artifact.sha256
        plan = self.network.plan if isinstance(self.network, SlicedViT) else type(self.network).__name__
        return f"{plan} {weights_sha256(self.network)}"


@dataclass(frozen=True)
class TimmSpec:
    """A timm classifier as a teacher.

    Attributes:
        name: the architecture, for instance ``resnet18``.
        img_size: input height and width in pixels; None takes the student's for fresh weights, else its own.
        in_chans: 1 (grayscale) or 3 (RGB); None takes the data's for fresh weights, else 3.
        pretrained: take timm's published weights.
        checkpoint: take the weights of this file instead, of one of ``checkpoint_file.SUFFIXES``.
        overrides: further arguments of the architecture.
    """

    name: str
    img_size: int | None = None
    in_chans: int | None = None
    pretrained: bool = False
    checkpoint: Path | None = None
    overrides: Mapping[str, int | float | str | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


def sliced_teacher(model: SlicedViT, preprocessing: Preprocessing, name: str = "a Vision Transformer") -> Teacher:
    """Returns a ``SlicedViT`` as a teacher."""
    return Teacher(name, model, preprocessing, model.plan.num_classes)


def file_teacher(path: Path, data: Dataset) -> Teacher:
    """Returns an exported file as a teacher; it has only logits and cannot be trained.

    Raises:
        ArtifactError: the file or its manifest is missing or damaged.
        ModelError: the file was made for other classes.
        MissingExtraError: its engine is not installed.
    """
    session = load(path, threads=torch.get_num_threads())
    artifact = session.artifact
    _check_classes(str(path), artifact.class_names, data)
    return Teacher(f"the file {path.name}", session, artifact.preprocessing, len(artifact.class_names))


def folder_teacher(folder: Path, data: Dataset) -> Teacher:
    """Returns a model folder, or the better of a run folder's two models on held-out images, as a teacher.

    Raises:
        ModelError: the folder holds no model, or one for other classes.
        ArtifactError: a file is damaged.
    """
    place = _model_folder(folder)
    task, model = read_task(place), read_model(place)
    _check_classes(str(place), task.class_names, data)
    return sliced_teacher(model, task.preprocessing, f"the model in {place}")


def hub_teacher(source: str, data: Dataset, *, learns: bool = False) -> Teacher:
    """Returns the Vision Transformer of a Hugging Face checkpoint as a teacher.

    Args:
        source: ``hf:OWNER/NAME``, ``hf:OWNER/NAME@REVISION``, or a folder with ``config.json`` and weights.
        data: the data of the training.
        learns: whether the teacher will be trained on the data; its classifier is fresh if it has other classes.

    Raises:
        ModelError: there is no such checkpoint, it is not supported, or it knows other classes than the data.
    """
    brought = resolved(ModelSpec(source, reset_head=learns))
    assert brought.hub is not None
    names, given = brought.hub.metadata.class_names, brought.hub.outputs
    if not learns:
        guessed = names is None or brought.hub.names_guessed
        _check_classes(source, data.class_names if guessed and given == data.num_classes else names or (), data)
    keeps = learns and not brought.hub.not_classes and names == data.class_names
    spec = replace(brought, in_chans=brought.hub.channels, reset_head=learns and not keeps)
    model = load_model(spec, data.num_classes)
    preprocessing = brought.hub.metadata.preprocessing(*model.plan.img_size, stretch=False)
    return sliced_teacher(model, preprocessing, brought.hub.place.name)


def timm_teacher(
    spec: TimmSpec, data: Dataset, student: Preprocessing, *, seed: int = 0, learns: bool = False
) -> Teacher:
    """Returns a timm classifier as a teacher of ``data``.

    Args:
        spec: architecture and weights.
        data: the data of the training.
        student: the student's input, whose size a fresh teacher takes.
        seed: seed of fresh weights.
        learns: whether the teacher will be trained on the data, and may have other classes now.

    Raises:
        ModelError: the architecture is unknown, options or weights do not fit, weights cannot be downloaded or read,
            or the teacher is neither trained nor to be trained.
    """
    _check_name(spec.name)
    fresh = not (spec.pretrained or spec.checkpoint)
    if fresh and not learns:
        raise ModelError(
            f"The teacher '{spec.name}' has fresh weights and knows nothing",
            expected="--teacher-epochs, --teacher-checkpoint FILE, --teacher-pretrained or --online",
        )
    channels = spec.in_chans or (data.channels if fresh else 3)
    size = student.height if spec.img_size is None and fresh else spec.img_size
    with torch.device("meta"):
        shape, takes_size = _create(spec, data.num_classes, channels, size, pretrained=False)
    known = int(shape.pretrained_cfg.get("num_classes") or 0)
    if spec.pretrained and not spec.checkpoint and known != data.num_classes and not learns:
        raise ModelError(
            f"The published weights of '{spec.name}' know other classes than the data",
            expected=f"{data.num_classes} classes",
            got=known,
            fix="Train it on the data first with --teacher-epochs, or along with the student with --online",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pretrained = spec.pretrained and spec.checkpoint is None
        network, _ = _create(spec, data.num_classes, channels, size if takes_size else None, pretrained=pretrained)
    if spec.checkpoint is not None:
        names = None if learns else names_in_checkpoint(spec.checkpoint)
        if names is not None:
            _check_classes(str(spec.checkpoint), names, data)
        _load(network, spec)
    preprocessing = _preprocessing(network, channels, size, data)
    teacher = Teacher(f"timm {spec.name}", network.eval(), preprocessing, data.num_classes, spec)
    _check_runs(teacher, spec)
    return teacher


def teacher_score(
    teacher: Teacher, data: Dataset, indices: npt.NDArray[np.int64], progress: Progress = silent
) -> Score:
    """Returns accuracy and loss of a teacher on the pictures at ``indices``; calls ``progress`` after every batch."""
    if isinstance(teacher.network, nn.Module):
        return score(teacher.network, data, indices, teacher.preprocessing, progress=progress, stage="score teacher")
    return score_of_logits(teacher_logits(teacher, data, indices, progress), data.labels[indices])


def teacher_logits(
    teacher: Teacher, data: Dataset, indices: npt.NDArray[np.int64], progress: Progress = silent
) -> npt.NDArray[np.float32]:
    """Returns a teacher's logits ``(N, classes)`` for the pictures at ``indices``, in order.

    ``progress`` is called after every batch.
    """
    stage = "score teacher"
    if isinstance(teacher.network, nn.Module):
        network = copy_on(teacher.network, device_in_use())
        return logits_of(network, data, indices, teacher.preprocessing, progress=progress, stage=stage)
    parts: list[torch.Tensor] = []
    done = 0
    for images, _ in plain_batches(data, indices, teacher.preprocessing):
        parts.append(outputs_of(teacher.network, images).logits)
        done += len(images)
        progress(stage, done, len(indices))
    return torch.cat(parts).numpy()


def _model_folder(folder: Path) -> Path:
    if (folder / "plan.json").is_file():
        return folder
    found: list[tuple[float, Path]] = []
    for name in ("sliced", "baseline"):
        try:
            top1 = METRICS_DOCUMENT.read(folder / name / "metrics.json").held_out_top1
            # without labels the whole model is the one that the sliced model follows
            found.append((float(name == "baseline") if top1 is None else top1, folder / name))
        except ArtifactError:
            continue
    if not found:
        raise ModelError(f"The folder {folder} holds no trained model", expected="a run folder, or one with plan.json")
    return max(found)[1]


def _check_classes(name: str, class_names: tuple[str, ...], data: Dataset) -> None:
    if class_names != data.class_names:
        reordered = sorted(class_names) == sorted(data.class_names)
        what = "the classes in another order" if reordered else "other classes"
        raise ModelError(
            f"The teacher {name} knows {what} than the data",
            expected=_listed(data.class_names),
            got=_listed(class_names),
            fix="Give its order with --class-map FILE or --class-order"
            if reordered
            else "Choose the data that the teacher was trained on",
        )


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} classes ({', '.join(names[:5])}{more})"


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = (
            f"Did you mean {', '.join(near)}?"
            if near
            else "Names look like resnet18, and there is no folder or file of that name"
        )
        raise ModelError(f"timm knows no teacher '{name}'", fix=hint)


def _create(spec: TimmSpec, classes: int, channels: int, size: int | None, pretrained: bool) -> tuple[Any, bool]:
    """Returns the network, and whether its architecture takes an input size, as convolutional networks do not."""
    arguments = {"num_classes": classes, "in_chans": channels, **spec.overrides}
    failure: Exception | None = None
    for sized in ({"img_size": size}, {}) if size is not None else ({},):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return timm.create_model(spec.name, pretrained=pretrained, **arguments, **sized), bool(sized)
        except TypeError as error:
            failure = error
        except Exception as error:  # timm lets through whatever an option breaks, and whatever a download raises
            failure = error
            break
    reason = (str(failure).strip().splitlines() or [""])[0][:200].rstrip(".")
    if pretrained:
        raise ModelError(
            f"The published weights of '{spec.name}' cannot be had",
            got=f"{type(failure).__name__}: {reason}",
            fix="Go online, or give a local file with --teacher-checkpoint",
        ) from failure
    raise ModelError(f"timm cannot make the teacher '{spec.name}' with these options", got=reason) from failure


def _load(network: nn.Module, spec: TimmSpec) -> None:
    assert spec.checkpoint is not None
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    checkpoint = open_checkpoint(spec.checkpoint, wanted)
    weights = weights_needed(to_timm(checkpoint.weights, wanted), wanted)
    check_finite_weights(f"The checkpoint {spec.checkpoint}", weights)
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f"The checkpoint {spec.checkpoint} does not fit the teacher '{spec.name}': "
            f"{len(wrong)} weights differ, first '{wrong[0]}'",
            expected=wanted.get(wrong[0], "no such weight"),
            got=found.get(wrong[0], "none"),
            fix="Choose weights that were trained on this data, and check --teacher and --teacher-arg",
        )
    network.load_state_dict(weights)


def _preprocessing(network: Any, channels: int, size: int | None, data: Dataset) -> Preprocessing:
    height, width = (size, size) if size is not None else resolve_data_config({}, model=network)["input_size"][1:]
    stretch = is_stretched(data.size, height, width)
    return timm_metadata(network, channels).preprocessing(height, width, stretch=stretch)


def _check_runs(teacher: Teacher, spec: TimmSpec) -> None:
    own = teacher.preprocessing
    assert isinstance(teacher.network, nn.Module)
    try:
        with evaluating(teacher.network):
            answers = teacher.network(torch.zeros(1, own.channels, own.height, own.width))
    except Exception as error:  # a network that is too deep for a picture fails wherever it runs out of pixels
        reason = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
        raise ModelError(
            f"The teacher '{spec.name}' does not read images of {own.height}x{own.width} pixels",
            got=reason,
            fix="Change --teacher-img-size",
        ) from error
    if answers.shape != (1, teacher.num_classes):
        raise ModelError(
            f"The teacher '{spec.name}' is no classifier",
            expected=f"answers (1, {teacher.num_classes})",
            got=tuple(answers.shape),
        )
