"""What is trained and how, as every process of a training is told it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from compress.data.augment import Augmentation
from compress.distill.lesson import DistillationLoss
from compress.distill.settings import Distillation
from compress.distill.teachers import Teacher
from compress.distributed import check_shareable
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from runtime import ModelError, Preprocessing, ShapePlan

from .masks import Masks

Packed = nn.Module | tuple[ShapePlan, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class TrainTask:
    """A training, beside its data and where its state is kept.

    Attributes:
        model: the network to start from.
        spec: its input.
        recipe: how.
        augmentation: random changes to training pictures.
        seed: of order and augmentation.
        bf16: compute under bfloat16 autocast.
        device: where to compute.
        teacher: whom it learns from.
        told: what it learns beside the labels.
        masks: weights that stay zero.
    """

    model: nn.Module
    spec: Preprocessing
    recipe: TrainRecipe
    augmentation: Augmentation
    seed: int
    bf16: bool
    device: torch.device
    teacher: Teacher | None = None
    told: Distillation | None = None
    masks: Masks | None = None

    def lesson(self) -> DistillationLoss | None:
        """Returns what the network is taught by; none where that is the labels alone."""
        if self.told is None:
            return None
        assert isinstance(self.model, SlicedViT)
        return DistillationLoss(self.told, self.teacher, self.model, self.spec, self.seed, self.bf16, self.device)


def check_task(task: TrainTask) -> None:
    """Refuses what several processes cannot train as one does.

    Raises:
        ModelError: what is trained goes by statistics of a batch or drops activations at random, or its teacher is an
            exported file.
    """
    check_shareable(task.model)
    if task.teacher is None or task.told is None or not task.told.needs_teacher:
        return
    if not isinstance(task.teacher.network, nn.Module):
        raise ModelError(
            f"The teacher {task.teacher.name} is an exported file, which one process alone can ask",
            fix="Train without torchrun, or name the run folder it was made of with --teacher",
        )
    if task.told.online:
        check_shareable(task.teacher.network)


def pack_task(task: TrainTask) -> tuple[TrainTask, Packed, Packed]:
    """Returns a task as it can be sent: a ``SlicedViT`` is a plan and weights, for functions in it cannot be."""
    bare = nn.Identity()
    teacher = task.teacher and replace(task.teacher, network=bare)
    asked = task.teacher.network if task.teacher else bare
    assert isinstance(asked, nn.Module)
    return replace(task, model=bare, teacher=teacher), _as_data(task.model), _as_data(asked)


def unpack_task(task: TrainTask, model: Packed, teacher: Packed, device: torch.device) -> TrainTask:
    """Returns the task that ``pack_task`` was given, to be done on ``device``."""
    asked = task.teacher and replace(task.teacher, network=_as_network(teacher))
    return replace(task, model=_as_network(model), teacher=asked, device=device)


def _as_data(network: nn.Module) -> Packed:
    return (network.plan, network.state_dict()) if isinstance(network, SlicedViT) else network


def _as_network(pack_task: Packed) -> nn.Module:
    return build(*pack_task) if isinstance(pack_task, tuple) else pack_task
