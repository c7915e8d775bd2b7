"""Model folders: ``model.safetensors``, ``plan.json`` and ``task.json``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from runtime import PLAN_DOCUMENT, ArtifactError, Document, PlanError, Preprocessing

from .checkpoint_file import check_finite_weights
from .metadata import write_names
from .tensors import write_tensors
from .vit import SlicedViT, build


@dataclass(frozen=True)
class Task:
    """The task of a model: its data, input and classes.

    Attributes:
        data: the name of the dataset, as given to ``--data``.
        split_seed: the seed of the dataset's splits.
        train_limit: how many training images were used, or null for all.
        preprocessing: how an image becomes the model's input.
        class_names: class names in the order of the logits.
        source: origin of the weights, in words.
        trained: whether the weights were trained on this task; false for fresh weights.
        origin: the repository and commit that the weights come from, ``OWNER/NAME@COMMIT``; null for others.
        licence: that the model's card states; null where it states none.
    """

    data: str
    split_seed: int
    train_limit: int | None
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    source: str
    trained: bool
    origin: str | None = None
    licence: str | None = None


TASK_DOCUMENT = Document("pocketvit.task", 3, Task)


def save_model(folder: Path | str, model: SlicedViT, task: Task) -> None:
    """Writes a model folder; each file is written atomically.

    Raises:
        StorageError: a file cannot be written.
    """
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", model.state_dict(), write_names(task.class_names))
    PLAN_DOCUMENT.write(folder / "plan.json", model.plan)
    TASK_DOCUMENT.write(folder / "task.json", task)


def read_model(folder: Path | str) -> SlicedViT:
    """Reads the model of a folder that ``save_model`` wrote.

    Raises:
        ArtifactError: a file is missing or damaged, a weight is NaN or infinite, or weights and plan do not fit.
    """
    folder = Path(folder)
    plan = PLAN_DOCUMENT.read(folder / "plan.json")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist", expected="the model's weights")
    try:
        weights = load_file(path)
        check_finite_weights(f"The model {path}", weights)
        return build(plan, weights)
    except (SafetensorError, PlanError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read", got=error, fix="Make the run anew") from error


def read_task(folder: Path | str) -> Task:
    """Reads the task of a model folder.

    Raises:
        ArtifactError: the file is missing, damaged, or of a newer version.
    """
    return TASK_DOCUMENT.read(Path(folder) / "task.json")


def weights_sha256(model: nn.Module) -> str:
    """Returns a SHA-256 over every weight's name, type, shape and bytes, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().to(torch.float32).contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
