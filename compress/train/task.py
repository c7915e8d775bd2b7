"""A training as data, in a form that can be sent to other processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from compress.data.augment import Augmentation
from compress.data.dataset import Dataset
from compress.distill.loss import DistillationLoss
from compress.distill.settings import Distillation
from compress.distill.teachers import Teacher
from compress.distributed import check_shareable
from compress.model.coordinates import Coordinates
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from runtime import ModelError, Preprocessing, ShapePlan

from .masks import Masks

Packed = nn.Module | tuple[ShapePlan, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class TrainTask:
    """A training without its data and its state.

    Attributes:
        model: the network to start from.
        spec: its input.
        recipe: length, learning rates and other settings of the training.
        augmentation: random changes to training pictures.
        seed: seed of order and augmentation.
        bf16: compute under bfloat16 autocast.
        device: device that computes.
        teacher: the network to learn from.
        distillation: methods of distillation; None learns from the labels alone.
        masks: the weights that stay zero.
        back: the map of the student's tokens into the teacher's coordinates; see
            ``DistillationLoss``.
    """

    model: nn.Module
    spec: Preprocessing
    recipe: TrainRecipe
    augmentation: Augmentation
    seed: int
    bf16: bool
    device: torch.device
    teacher: Teacher | None = None
    distillation: Distillation | None = None
    masks: Masks | None = None
    back: Coordinates | None = None

    def loss(self) -> DistillationLoss | None:
        """Returns the distillation loss; None where the network learns from the labels alone."""
        if self.distillation is None:
            return None
        assert isinstance(self.model, SlicedViT)
        return DistillationLoss(
            self.distillation, self.teacher, self.model, self.spec, self.seed, self.bf16, self.device, self.back
        )


def check_teachable(task: TrainTask, data: Dataset) -> None:
    """Refuses a training without labels that has no teacher either.

    Raises:
        ModelError: there is nothing to learn from.
    """
    taught = task.distillation is not None and task.distillation.needs_teacher
    if data.labelled or taught or not task.recipe.epochs:
        return
    raise ModelError(
        "Without labels a model learns from a teacher alone, and there is none",
        expected="a teacher and one of its methods of distillation",
        fix="Train with labels, or take the weights as they are",
    )


def check_task(task: TrainTask) -> None:
    """Refuses a training that several processes would not train as one process does.

    Raises:
        ModelError: a network uses statistics of a batch or drops activations at random, or the teacher is an exported
            file.
    """
    check_shareable(task.model)
    if task.teacher is None or task.distillation is None or not task.distillation.needs_teacher:
        return
    if not isinstance(task.teacher.network, nn.Module):
        raise ModelError(
            f"The teacher {task.teacher.name} is an exported file, which one process alone can ask",
            fix="Train without torchrun, or name the run folder it was made of with --teacher",
        )
    if task.distillation.online:
        check_shareable(task.teacher.network)


def pack_task(task: TrainTask) -> tuple[TrainTask, Packed, Packed]:
    """Returns a task that can be pickled, and the two networks: a ``SlicedViT`` as plan and weights."""
    bare = nn.Identity()
    teacher = task.teacher and replace(task.teacher, network=bare)
    asked = task.teacher.network if task.teacher else bare
    assert isinstance(asked, nn.Module)
    return replace(task, model=bare, teacher=teacher), _as_data(task.model), _as_data(asked)


def unpack_task(task: TrainTask, model: Packed, teacher: Packed, device: torch.device) -> TrainTask:
    """Returns the task that ``pack_task`` took apart, for ``device``."""
    asked = task.teacher and replace(task.teacher, network=_as_network(teacher))
    return replace(task, model=_as_network(model), teacher=asked, device=device)


def _as_data(network: nn.Module) -> Packed:
    return (network.plan, network.state_dict()) if isinstance(network, SlicedViT) else network


def _as_network(pack_task: Packed) -> nn.Module:
    return build(*pack_task) if isinstance(pack_task, tuple) else pack_task
