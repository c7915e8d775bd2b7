"""The loss of a student's batch, and what is trained beside the student for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import nn

from compress.data.augment import Augmentation
from compress.data.dataset import Dataset
from compress.devices import CPU, autocast, copy_on, made_on
from compress.distributed import ALONE, Ranks
from compress.evaluate import evaluating
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from runtime import ModelError, Preprocessing

from .features import feature_loss, projection_of
from .outputs import Outputs, depth_of, outputs_of
from .relations import angle_loss, distance_loss
from .response import distillation_loss, label_loss, mutual_losses
from .settings import Distillation, feature_pairs, shallow_blocks
from .shallow import ShallowHead, self_loss
from .teachers import Teacher
from .views import seen_by, teacher_views


class DistillationLoss:
    """What a student is taught by in one training.

    Args:
        told: the methods and their weights.
        teacher: whom it learns from; left as it is, a copy learns where it is to learn. Where no method asks a
            teacher, it is not asked.
        student: whose shape it is for.
        spec: the student's input.
        seed: of the fresh weights trained beside the student.
        bf16: compute networks under bfloat16 autocast.
        device: where they compute.

    Attributes:
        trained: what is trained beside the student: projections, shallow classifiers, and an online teacher.

    Raises:
        PlanError: a block is not there.
        ModelError: a method needs a teacher, or one of another kind, or one with the student's classes.
    """

    def __init__(
        self,
        told: Distillation,
        teacher: Teacher | None,
        student: SlicedViT,
        spec: Preprocessing,
        seed: int = 0,
        bf16: bool = False,
        device: torch.device = CPU,
    ) -> None:
        check_lesson(told, teacher, student)
        teacher = teacher if told.needs_teacher else None
        self.told, self.teacher, self.spec, self.bf16, self.device = told, teacher, spec, bf16, device
        self.network = teacher.network if teacher else None
        if told.online:
            self.network = copy.deepcopy(self.network)
        if isinstance(self.network, nn.Module):
            self.network = copy_on(self.network, device)
        depth = len(student.plan.blocks)
        self.pairs = feature_pairs(told, depth, depth_of(teacher.network)) if self._does("feature") and teacher else ()
        self.shallow = shallow_blocks(told, depth) if self._does("self") else ()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = nn.ModuleList(self._projections(student))
            heads = (ShallowHead(student.plan.embed_dim, student.plan.num_classes) for _ in self.shallow)
            self.heads = nn.ModuleList(heads)
        self.trained = nn.ModuleDict({"projections": self.projections, "heads": self.heads})
        if told.online and isinstance(self.network, nn.Module):
            self.trained["teacher"] = self.network.requires_grad_(True).train()
        self.trained.to(device)

    def describe(self) -> tuple[object, ...]:
        """Returns what must be equal for a killed training to be continued."""
        teacher = self.teacher
        return self.told, teacher and (teacher.identity(), teacher.preprocessing)

    def groups(self, recipe: TrainRecipe) -> list[dict[str, Any]]:
        """Returns the optimiser's groups of what is trained beside the student."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.trained.named_parameters():
            rate = (self.told.teacher_lr or recipe.lr) if name.startswith("teacher.") else self.told.fresh_lr
            decay = recipe.weight_decay if name.endswith("weight") and parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "peak_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]

    def views(
        self, data: Dataset, augmentation: Augmentation, ranks: Ranks = ALONE, **order: int
    ) -> Iterator[torch.Tensor | None]:
        """Yields what ``loss`` takes as ``view`` for each of the student's training batches.

        Args:
            data: the dataset.
            augmentation: what is random.
            ranks: who trains.
            order: batch_size, seed, epoch and skip, as ``teacher_views`` takes them.
        """
        if self.teacher is None:
            return repeat(None)
        return teacher_views(data, self.spec, self.teacher.preprocessing, augmentation, ranks=ranks, **order)

    def loss(
        self,
        student: SlicedViT,
        images: torch.Tensor,
        labels: torch.Tensor,
        view: torch.Tensor | None,
        whole: Callable[[torch.Tensor], torch.Tensor] = lambda own: own,
    ) -> torch.Tensor:
        """Returns the loss of a batch; that of an online teacher is added to it.

        Args:
            student: the student, on the lesson's device.
            images: ``(B, C, H, W)`` as the student reads them, on the CPU; or a share of the batch.
            labels: ``(B,)`` of the batch, ``UNLABELLED`` where nobody has said.
            view: the same pictures as the teacher reads them, or None where they follow from ``images``.
            whole: makes rows for the batch from rows for ``images``.
        """
        depth = len(student.plan.blocks)
        asked = [*(own for own, _ in self.pairs), *self.shallow, *([depth - 1] if self.shallow else [])]
        with autocast(self.device, self.bf16):
            made = outputs_of(student, images.to(self.device), asked, self._does("relation"))
            taught = self._taught(images, view)
        with made_on(self.device):
            return self._loss(_each(made, whole), taught and _each(taught, whole), labels.to(self.device))

    def _loss(self, made: Outputs, taught: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
        loss = self._answers(made, taught, labels)
        if taught is not None and self._does("feature"):
            states = zip(made.features, taught.features, self.projections, strict=False)
            loss = loss + self.told.feature_weight * torch.stack([feature_loss(*three) for three in states]).mean()
        if taught is not None and made.embedding is not None and taught.embedding is not None:
            loss = loss + self.told.distance_weight * distance_loss(made.embedding, taught.embedding)
            loss = loss + self.told.angle_weight * angle_loss(made.embedding, taught.embedding)
        return loss + self._shallow_losses(made, labels) if self.shallow else loss

    def _does(self, method: str) -> bool:
        return method in self.told.methods

    def _taught(self, images: torch.Tensor, view: torch.Tensor | None) -> Outputs | None:
        if self.teacher is None or self.network is None:
            return None
        seen = seen_by(images, self.spec, self.teacher.preprocessing) if view is None else view
        asked = [other for _, other in self.pairs]
        if not isinstance(self.network, nn.Module):
            return _each(outputs_of(self.network, seen, asked, self._does("relation")), self._there)
        seen = seen.to(self.device)
        if self.told.online:
            return outputs_of(self.network, seen, asked, self._does("relation"))
        with evaluating(self.network):
            return outputs_of(self.network, seen, asked, self._does("relation"))

    def _there(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(self.device)

    def _answers(self, made: Outputs, taught: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
        told = self.told
        if taught is None:
            return label_loss(made.logits, labels)
        weight = told.weight if self._does("response") else 0.0
        if told.online:
            pair = mutual_losses(made.logits, taught.logits, labels, (weight, told.mutual_weight), told.temperature)
            return pair[0] + pair[1]
        if not weight:
            return label_loss(made.logits, labels)
        return distillation_loss(made.logits, taught.logits, labels, weight, told.temperature)

    def _shallow_losses(self, made: Outputs, labels: torch.Tensor) -> torch.Tensor:
        told, states = self.told, made.features[len(self.pairs) :]
        losses = [
            self_loss(
                head(state),
                made.logits,
                (state, states[-1].detach()),
                labels,
                weight=told.self_weight,
                feature_weight=told.self_feature_weight,
                temperature=told.temperature,
            )
            for head, state in zip(self.heads, states[:-1], strict=True)
        ]
        return torch.stack(losses).sum()

    def _projections(self, student: SlicedViT) -> list[nn.Module]:
        if not self.pairs or self.teacher is None:
            return []
        spec, network = self.teacher.preprocessing, self.teacher.network
        assert isinstance(network, nn.Module)
        with evaluating(network):
            blank = torch.zeros(1, spec.channels, spec.height, spec.width)
            states = outputs_of(network, blank, [other for _, other in self.pairs]).features
        return [projection_of(student.plan.embed_dim, state.shape[1]) for state in states]


def _each(outputs: Outputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Outputs:
    read = None if outputs.embedding is None else change(outputs.embedding)
    return Outputs(change(outputs.logits), tuple(map(change, outputs.features)), read)


def check_lesson(told: Distillation, teacher: Teacher | None, student: SlicedViT) -> None:
    """Refuses methods that a teacher or a student cannot serve.

    Raises:
        ModelError: a method needs a teacher, or one of another kind, or one with the student's classes.
        PlanError: a block is not there.
    """
    depth = len(student.plan.blocks)
    if "self" in told.methods:
        shallow_blocks(told, depth)
    if teacher is None:
        if told.needs_teacher:
            raise ModelError(
                f"Distillation by {', '.join(told.methods)} needs a teacher",
                fix="Name one with --teacher, or take --method self",
            )
        return
    if teacher.num_classes != student.plan.num_classes:
        raise ModelError(
            f"The teacher {teacher.name} has another number of classes than the student",
            expected=student.plan.num_classes,
            got=teacher.num_classes,
        )
    if told.online and not isinstance(teacher.network, nn.Module):
        raise ModelError(
            f"The teacher {teacher.name} is an exported file, which cannot be trained",
            fix="Leave out --online, or name a timm architecture or a run folder with --teacher",
        )
    deep = [method for method in told.methods if method in ("feature", "relation")]
    if deep and not depth_of(teacher.network):
        raise ModelError(
            f"Distillation by {' and '.join(deep)} needs a teacher's hidden states, and {teacher.name} gives none",
            fix="Take --method response, or name a timm architecture or a run folder with --teacher",
        )
    if "feature" in told.methods:
        feature_pairs(told, depth, depth_of(teacher.network))
