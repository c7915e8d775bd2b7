"""The loss of a student's batch by any mix of distillation methods, and the modules that are trained for it."""

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
from compress.model.coordinates import Coordinates
from compress.model.folder import weights_sha256
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from runtime import ModelError, Preprocessing

from .features import feature_loss, map_back, projection_of, tokens_loss
from .outputs import Outputs, depth_of, outputs_of
from .relations import angle_loss, distance_loss
from .response import distillation_loss, label_loss, mutual_losses, vector_loss
from .settings import Distillation, feature_pairs, shallow_blocks
from .shallow import ShallowHead, self_loss
from .teachers import Teacher
from .views import seen_by, teacher_views


class DistillationLoss:
    """The loss of one training by distillation.

    Args:
        settings: the methods and their weights.
        teacher: the network to learn from; it stays as it is, and an online teacher is trained on a copy. It is unused
            where no method needs a teacher.
        student: a model of the student's shape.
        spec: the student's input.
        seed: seed of the fresh weights of projections and shallow classifiers.
        bf16: compute networks under bfloat16 autocast.
        device: device that computes.
        back: the fixed map of the student's tokens into the teacher's coordinates, for
            method ``tokens``; None for the same coordinates, or with other widths for a map that is learnt.

    Attributes:
        trained: the modules that are trained with the student: projections, shallow classifiers, an online teacher.

    Raises:
        PlanError: a block that the settings name does not exist.
        ModelError: a method needs a teacher, another kind of teacher, or a teacher with the student's classes.
    """

    def __init__(
        self,
        settings: Distillation,
        teacher: Teacher | None,
        student: SlicedViT,
        spec: Preprocessing,
        seed: int = 0,
        bf16: bool = False,
        device: torch.device = CPU,
        back: Coordinates | None = None,
    ) -> None:
        check_distillation(settings, teacher, student)
        teacher = teacher if settings.needs_teacher else None
        self.settings, self.teacher, self.spec, self.bf16, self.device = settings, teacher, spec, bf16, device
        self.network = teacher.network if teacher else None
        if settings.online:
            self.network = copy.deepcopy(self.network)
        if isinstance(self.network, nn.Module):
            self.network = copy_on(self.network, device)
        self.vectors = student.plan.is_vector
        depth = len(student.plan.blocks)
        self.pairs = (
            feature_pairs(settings, depth, depth_of(teacher.network)) if self._does("feature") and teacher else ()
        )
        self.shallow = shallow_blocks(settings, depth) if self._does("self") else ()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = nn.ModuleList(self._projections(student))
            heads = (ShallowHead(student.plan.embed_dim, student.plan.num_classes) for _ in self.shallow)
            self.heads = nn.ModuleList(heads)
            maps = [map_back(*self._token_widths(student), back)] if self._does("tokens") else []
            self.maps = nn.ModuleList(maps)
        self.trained = nn.ModuleDict({"projections": self.projections, "heads": self.heads})
        if maps:
            self.trained["maps"] = self.maps
        if settings.online and isinstance(self.network, nn.Module):
            self.trained["teacher"] = self.network.requires_grad_(True).train()
        self.trained.to(device)

    def describe(self) -> tuple[object, ...]:
        """Returns the settings and the teacher's identity, which must not change when a training is resumed."""
        teacher, maps = self.teacher, [weights_sha256(own) for own in self.maps]
        return self.settings, teacher and (teacher.identity(), teacher.preprocessing), *maps

    def groups(self, recipe: TrainRecipe) -> list[dict[str, Any]]:
        """Returns the optimiser's parameter groups of the modules trained with the student."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.trained.named_parameters():
            rate = (self.settings.teacher_lr or recipe.lr) if name.startswith("teacher.") else self.settings.fresh_lr
            decay = recipe.weight_decay if name.endswith("weight") and parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "peak_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]

    def views(
        self, data: Dataset, augmentation: Augmentation, ranks: Ranks = ALONE, **order: int
    ) -> Iterator[torch.Tensor | None]:
        """Yields the argument ``view`` of ``loss`` for each of the student's training batches.

        Args:
            data: the dataset.
            augmentation: random changes to the pictures.
            ranks: the processes that train together.
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
        """Returns the loss of a batch, plus the loss of an online teacher.

        Args:
            student: the student, on the device of this loss.
            images: ``(B, C, H, W)`` as the student reads them, on the CPU; or this process's share of the batch.
            labels: ``(B,)`` of the whole batch; ``UNLABELLED`` for pictures without a label.
            view: the same pictures as the teacher reads them; None where they follow from ``images``.
            whole: gathers rows for ``images`` into rows for the whole batch.
        """
        depth = len(student.plan.blocks)
        asked = [*(own for own, _ in self.pairs), *self.shallow, *([depth - 1] if self.shallow else [])]
        with autocast(self.device, self.bf16):
            made = outputs_of(student, images.to(self.device), asked, self._embeds, self._does("tokens"))
            taught = self._taught(images, view)
        with made_on(self.device):
            return self._loss(_each(made, whole), taught and _each(taught, whole), labels.to(self.device))

    def _loss(self, made: Outputs, taught: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
        loss = self._answers(made, taught, labels)
        if taught is not None and self._does("feature"):
            states = zip(made.features, taught.features, self.projections, strict=False)
            loss = loss + self.settings.feature_weight * torch.stack([feature_loss(*three) for three in states]).mean()
        if self.maps and taught is not None:
            loss = loss + self.settings.token_weight * tokens_loss(_last(made), _last(taught), self.maps[0])
        if (
            self._does("relation")
            and made.embedding is not None
            and taught is not None
            and taught.embedding is not None
        ):
            loss = loss + self.settings.distance_weight * distance_loss(made.embedding, taught.embedding)
            loss = loss + self.settings.angle_weight * angle_loss(made.embedding, taught.embedding)
        return loss + self._shallow_losses(made, labels) if self.shallow else loss

    def _does(self, method: str) -> bool:
        return method in self.settings.methods

    @property
    def _embeds(self) -> bool:
        return self._does("relation") or self._does("tokens")

    def _taught(self, images: torch.Tensor, view: torch.Tensor | None) -> Outputs | None:
        if self.teacher is None or self.network is None:
            return None
        seen = seen_by(images, self.spec, self.teacher.preprocessing) if view is None else view
        asked = [other for _, other in self.pairs]
        if not isinstance(self.network, nn.Module):
            return _each(outputs_of(self.network, seen, asked, self._embeds), self._there)
        seen = seen.to(self.device)
        if self.settings.online:
            return outputs_of(self.network, seen, asked, self._embeds, self._does("tokens"))
        with evaluating(self.network):
            return outputs_of(self.network, seen, asked, self._embeds, self._does("tokens"))

    def _there(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(self.device)

    def _answers(self, made: Outputs, taught: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
        settings = self.settings
        if taught is None:
            return label_loss(made.logits, labels)
        if self.vectors:
            return settings.weight * self._does("response") * vector_loss(made.logits, taught.logits)
        weight = settings.weight if self._does("response") else 0.0
        if settings.online:
            pair = mutual_losses(
                made.logits, taught.logits, labels, (weight, settings.mutual_weight), settings.temperature
            )
            return pair[0] + pair[1]
        if not weight:
            return label_loss(made.logits, labels)
        return distillation_loss(made.logits, taught.logits, labels, weight, settings.temperature)

    def _shallow_losses(self, made: Outputs, labels: torch.Tensor) -> torch.Tensor:
        settings, states = self.settings, made.features[len(self.pairs) :]
        losses = [
            self_loss(
                head(state),
                made.logits,
                (state, states[-1].detach()),
                labels,
                weight=settings.self_weight,
                feature_weight=settings.self_feature_weight,
                temperature=settings.temperature,
            )
            for head, state in zip(self.heads, states[:-1], strict=True)
        ]
        return torch.stack(losses).sum()

    def _token_widths(self, student: SlicedViT) -> tuple[int, int]:
        assert self.teacher is not None
        assert isinstance(self.teacher.network, SlicedViT)
        return student.plan.embed_dim, self.teacher.network.plan.embed_dim

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
    read, tokens = (None if own is None else change(own) for own in (outputs.embedding, outputs.tokens))
    return Outputs(change(outputs.logits), tuple(map(change, outputs.features)), read, tokens)


def _last(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the classifier's input and the last tokens."""
    assert outputs.embedding is not None
    assert outputs.tokens is not None
    return outputs.embedding, outputs.tokens


def check_distillation(settings: Distillation, teacher: Teacher | None, student: SlicedViT) -> None:
    """Refuses distillation methods that do not suit a teacher or a student.

    Raises:
        ModelError: a method needs a teacher, another kind of teacher, or a teacher with the student's classes.
        PlanError: a block that the settings name does not exist.
    """
    depth = len(student.plan.blocks)
    if "self" in settings.methods:
        shallow_blocks(settings, depth)
    if teacher is None:
        if settings.needs_teacher:
            raise ModelError(
                f"Distillation by {', '.join(settings.methods)} needs a teacher",
                fix="Name one with --teacher, or take --method self",
            )
        return
    if teacher.num_classes != student.plan.num_classes:
        raise ModelError(
            f"The teacher {teacher.name} has another number of classes than the student",
            expected=student.plan.num_classes,
            got=teacher.num_classes,
        )
    if settings.online and not isinstance(teacher.network, nn.Module):
        raise ModelError(
            f"The teacher {teacher.name} is an exported file, which cannot be trained",
            fix="Leave out --online, or name a timm architecture or a run folder with --teacher",
        )
    deep = [method for method in settings.methods if method in ("feature", "relation")]
    if deep and not depth_of(teacher.network):
        raise ModelError(
            f"Distillation by {' and '.join(deep)} needs a teacher's hidden states, and {teacher.name} gives none",
            fix="Take --method response, or name a timm architecture or a run folder with --teacher",
        )
    if "feature" in settings.methods:
        feature_pairs(settings, depth, depth_of(teacher.network))
    if "tokens" in settings.methods:
        _check_tokens(teacher, student)


def _check_tokens(teacher: Teacher, student: SlicedViT) -> None:
    """Refuses a teacher whose tokens are not those of the student."""
    fix = "Take --method feature or response"
    if not isinstance(teacher.network, SlicedViT):
        raise ModelError(
            f"Distillation by tokens needs a teacher that is a model of PocketViT, and {teacher.name} is none",
            expected="a run folder or a model folder",
            fix=fix,
        )
    own, other = student.plan.num_tokens, teacher.network.plan.num_tokens
    if own != other:
        raise ModelError(f"The teacher {teacher.name} has another number of tokens", expected=own, got=other, fix=fix)
