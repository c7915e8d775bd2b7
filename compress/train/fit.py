"""Training that can be killed at any time and resumed, and ends with the same weights."""

from __future__ import annotations

import copy
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from compress.data.augment import Augmentation
from compress.data.batches import training_batches
from compress.data.data_list import data_digest
from compress.data.dataset import Dataset
from compress.devices import CPU, autocast, choose_device, count_gpus, device_in_use, own_randomness, use_device
from compress.distill.response import label_loss
from compress.distill.settings import Distillation
from compress.distill.teachers import Teacher, sliced_teacher
from compress.distributed import ALONE, Ranks, current_ranks, in_lockstep
from compress.model.coordinates import Coordinates
from compress.model.folder import weights_sha256
from compress.model.vit import SlicedViT, build
from compress.recipe import TrainRecipe
from runtime import EpochRecord, Preprocessing, Progress, ShapePlan, if_long, silent

from .held_out import HeldOut, epochs_since_best, held_out_in_words, rank_of
from .masks import Masks, hold_zeros, masks_digest, with_zeros
from .optimizer import learning_rate, make_optimizer
from .pace import measure_pace, steps_within
from .state import TrainingState, read_training_state, write_training_state
from .task import Packed, TrainTask, check_task, check_teachable, pack_task, unpack_task

SAVE_EVERY_S = 30.0
_EXTRA = "lesson:"
"""Prefix of the names of extra trained modules in a saved state."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Trained:
    """The outcome of ``fit``.

    Attributes:
        model: the model with the weights of its best epoch.
        epochs: records of all epochs.
        teacher: an online teacher with its last weights; None where there was none.
        limit: number of steps that the time limit allowed; 0 without a time limit.
        improved: whether an epoch was better than the start, whose weights are returned otherwise. With labels the
            start is not judged.
    """

    model: SlicedViT
    epochs: tuple[EpochRecord, ...]
    teacher: nn.Module | None = None
    limit: int = 0
    improved: bool = True


def fit(
    model: SlicedViT,
    data: Dataset,
    spec: Preprocessing,
    recipe: TrainRecipe,
    *,
    augmentation: Augmentation,
    seed: int = 0,
    bf16: bool = False,
    teacher: SlicedViT | Teacher | None = None,
    distillation: Distillation | None = None,
    masks: Masks | None = None,
    back: Coordinates | None = None,
    device: torch.device | None = None,
    state_path: Path | None = None,
    stage: str = "train",
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains a copy of ``model`` on the training split and returns it at its best held-out epoch.

    Without labels, the best epoch is that whose held-out answers diverge least from the teacher's, the start included.

    Of several processes (``joined``) only rank 0 calls this function, while the others compute shares of every batch.

    Args:
        model: the model to start from; it is not changed.
        data: the dataset.
        spec: the model's input.
        recipe: length, learning rates and other settings of the training.
        augmentation: random changes to training pictures.
        seed: seed of order and augmentation.
        bf16: compute under bfloat16 autocast.
        teacher: a network to learn from: a model with the same input, or any other ``Teacher``; it is not changed.
        distillation: methods of distillation; None takes the teacher's logits, with the recipe's ``distill_weight``
            and ``temperature``.
        masks: weights that are made zero and stay zero, False in a mask of the weight's shape (``magnitude_masks``).
        back: the map of the student's tokens into the teacher's coordinates, for
            distillation by ``tokens``.
        device: device that computes; None takes the device in use. The returned models are on the CPU.
        state_path: file that keeps the state of the training, written every 30 seconds and after every epoch. The
            training resumes from a state of the same training, made by any number of processes on any device. The
            caller removes the file.
        stage: name of the training, for progress.
        progress: called after every step.
        clock: seconds, monotonic.

    Raises:
        StorageError: the state cannot be written.
        ModelError: the teacher does not fit the student or the methods, or cannot be trained in shares, or there are
            neither labels nor a teacher.
        PlanError: a block to learn from does not exist, or a mask does not fit.
        RankError: another process failed.
    """
    if masks:
        model = with_zeros(model, masks)
    asked = sliced_teacher(teacher, spec) if isinstance(teacher, SlicedViT) else teacher
    if asked is not None and distillation is None:
        distillation = Distillation(weight=recipe.distill_weight, temperature=recipe.temperature)
    there = device or device_in_use()
    task = TrainTask(model, spec, recipe, augmentation, seed, bf16, there, asked, distillation, masks, back)
    run = _start(task, data, state_path, stage, progress, clock)
    together = run.distillation.network if run.distillation and run.distillation.settings.online else None
    kept = together.eval().to(CPU) if isinstance(together, nn.Module) else None
    improved = not run.history or run.held_out.is_best(max(run.history, key=rank_of), ())
    return Trained(build(model.plan, run.best), tuple(run.history), kept, run.limit, improved)


def fit_network(
    network: Network,
    data: Dataset,
    spec: Preprocessing,
    recipe: TrainRecipe,
    *,
    augmentation: Augmentation,
    seed: int = 0,
    bf16: bool = False,
    device: torch.device | None = None,
    state_path: Path | None = None,
    stage: str = "train",
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Network, tuple[EpochRecord, ...]]:
    """Trains a copy of any classifier on the labels; returns it at its best epoch, and the records of all epochs.

    The arguments are those of ``fit``.

    Raises:
        StorageError: the state cannot be written.
        ModelError: the network cannot be trained in shares by several processes.
        RankError: another process failed.
    """
    task = TrainTask(network, spec, recipe, augmentation, seed, bf16, device or device_in_use())
    run = _start(task, data, state_path, stage, progress, clock)
    trained = copy.deepcopy(network)
    trained.load_state_dict(run.best)
    return trained.eval(), tuple(run.history)


def _start(
    task: TrainTask, data: Dataset, state_path: Path | None, stage: str, progress: Progress, clock: Callable[[], float]
) -> _Run:
    """Runs a training to its end, together with the other processes if there are any."""
    ranks = current_ranks()
    check_teachable(task, data)
    if ranks.size > 1:
        check_task(task)
    run = _Run(task, data, ranks)
    with ranks.together(_follow, data, *(pack_task(task) if ranks.size > 1 else ())):
        _train(run, state_path, stage, progress, clock)
    return run


def _follow(data: Dataset, task: TrainTask, model: Packed, teacher: Packed) -> None:
    """Trains together with rank 0, on every other rank."""
    ranks = current_ranks()
    device = choose_device(task.device.type, count_gpus(), ranks.local_rank, ranks.local_size)
    use_device(device)
    run = _Run(unpack_task(task, model, teacher, device), data, ranks)
    _train(run, None, "", silent, time.monotonic)


def _train(run: _Run, state_path: Path | None, stage: str, progress: Progress, clock: Callable[[], float]) -> None:
    """Runs a training to its end, from its saved state if there is one."""
    began = clock()
    state = (read_training_state(state_path, run.fingerprint()) if state_path else None) or TrainingState()
    run.begin(state)
    if run.must_be_timed:
        progress(stage, 0, run.total_steps, "timing the first steps")
        run.limit_steps(clock, began + 60 * run.recipe.minutes)
        if state_path:
            write_training_state(state_path, run.fingerprint(), run.state())
    saved = clock()
    while not run.finished:
        for step in run.steps():
            progress(stage, run.step, run.total_steps, run.note)
            if state_path and step and clock() - saved > SAVE_EVERY_S:
                write_training_state(state_path, run.fingerprint(), run.state())
                saved = clock()
        run.end_epoch(stage, progress)
        progress(stage, run.total_steps if run.finished else run.step, run.total_steps, run.note)
        if state_path:
            write_training_state(state_path, run.fingerprint(), run.state())
            saved = clock()


class _Run:
    """The mutable state of one training."""

    def __init__(self, task: TrainTask, data: Dataset, ranks: Ranks = ALONE) -> None:
        self.model: Any = copy.deepcopy(task.model).float().requires_grad_(True)
        self.data, self.spec, self.recipe, self.augmentation = data, task.spec, task.recipe, task.augmentation
        self.seed, self.bf16, self.device, self.ranks = task.seed, task.bf16, task.device, ranks
        self.distillation, self.masks = task.loss(), task.masks or {}
        self._fingerprint = self._describe()
        self.model.to(task.device)
        hold_zeros(self.model, self.masks)
        self.extra = self.distillation.trained if self.distillation else nn.ModuleDict()
        self.steps_per_epoch = math.ceil(len(data.train) / self.recipe.batch_size)
        self.limit, teacher = 0, self.distillation.teacher if self.distillation else None
        self.held_out = HeldOut(data, task.spec, teacher, task.seed, task.bf16, task.device, ranks)
        self.optimizer = make_optimizer(self.model, self.recipe)
        for group in self.distillation.groups(self.recipe) if self.distillation else ():
            self.optimizer.add_param_group(group)
        self.best: dict[str, torch.Tensor] = self._weights()
        self.history: list[EpochRecord] = []
        self.epoch, self.batch, self.loss_sum, self.note = 0, 0, 0.0, ""
        self.loss: Callable[..., torch.Tensor] = self._loss

    def fingerprint(self) -> str:
        """Returns the text that must be equal for a saved state to be resumed."""
        return self._fingerprint

    def _describe(self) -> str:
        taught = self.distillation.describe() if self.distillation else None
        held = [masks_digest(self.masks)] if self.masks else []
        held += [f"{self.recipe.minutes} minutes"] if self.recipe.minutes else []
        kind = getattr(self.model, "plan", type(self.model).__name__)
        pictures = hashlib.sha256()
        for indices in (self.data.train, self.data.held_out):
            pictures.update(f"{len(indices)} ".encode() + indices.tobytes() + self.data.labels[indices].tobytes())
        return "|".join(
            map(
                repr,
                (
                    *(self.recipe, self.augmentation, self.spec, self.seed, kind, taught),
                    *(weights_sha256(self.model), data_digest(self.data), pictures.hexdigest(), *held),
                ),
            )
        )

    @property
    def step(self) -> int:
        return self.epoch * self.steps_per_epoch + self.batch

    @property
    def total_steps(self) -> int:
        return min(self.recipe.epochs * self.steps_per_epoch, self.limit or sys.maxsize)

    @property
    def epochs(self) -> int:
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs or epochs_since_best(self.history) >= self.recipe.patience

    @property
    def must_be_timed(self) -> bool:
        return bool(self.recipe.minutes and self.recipe.epochs and not self.limit)

    def limit_steps(self, clock: Callable[[], float], ends: float) -> None:
        """Fixes the number of steps by the time that the first ones take, and goes back to the start."""
        start = self.state()
        pace = measure_pace(self.steps(), self.held_out, self.model, clock, 60 * self.recipe.minutes, self.ranks)
        self.restore(start)
        self.optimizer.state.clear()
        self.limit = int(self.ranks.broadcast_floats(steps_within(ends - clock(), pace, self.steps_per_epoch))[0])

    def steps(self) -> Iterator[int]:
        """Yields after every optimiser step of the current epoch."""
        data, changes, ranks = self.data, self.augmentation, self.ranks
        order = {"batch_size": self.recipe.batch_size, "seed": self.seed, "epoch": self.epoch, "skip": self.batch}
        batches = training_batches(data, data.train, self.spec, changes, ranks=ranks, **order)
        views = self.distillation.views(data, changes, ranks, **order) if self.distillation else repeat(None)
        for (images, labels), view in zip(batches, views, strict=False):
            if self.step >= self.total_steps:
                return
            self._step(images, labels, view)
            yield self.step

    def _step(self, images: torch.Tensor, labels: torch.Tensor, view: torch.Tensor | None) -> None:
        rate = learning_rate(self.step, self.total_steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["peak_lr"]
        # batch norm has no variance in a batch of one
        for part in (self.model, self.extra):
            part.train(len(labels) > 1)
        with own_randomness(self.device):
            # a teacher's dropout must not depend on where a killed training was resumed
            torch.manual_seed(int(np.random.default_rng([self.seed, self.step]).integers(2**63)))
            loss = self.loss(images, labels, view)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for part in (self.model, self.extra):
            if self.recipe.clip_norm:
                nn.utils.clip_grad_norm_(list(part.parameters()), self.recipe.clip_norm)
        self.optimizer.step()
        self.batch += 1
        self.loss_sum += float(loss.detach()) * len(labels)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor, view: torch.Tensor | None) -> torch.Tensor:
        """Returns the loss of a batch, of which ``images`` and ``view`` are this process's share."""

        def whole(own: torch.Tensor) -> torch.Tensor:
            return self.ranks.gather(own, len(labels))

        if self.distillation is not None:
            return self.distillation.loss(self.model, images, labels, view, whole)
        with autocast(self.device, self.bf16):
            logits = self.model(images.to(self.device)).float()
        return label_loss(whole(logits), labels.to(self.device))

    def end_epoch(self, stage: str, progress: Progress) -> None:
        """Scores the held-out split, keeps the best weights, and starts the next epoch."""
        trained_on = min(self.batch * self.recipe.batch_size, len(self.data.train))
        loss = self.loss_sum / trained_on
        record = self.held_out.record(self.model, self.epoch + 1, loss, if_long(progress), f"{stage} held-out")
        if self.held_out.is_best(record, self.history):
            self.best = self._weights()
        self.history.append(record)
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0
        self.note = f"epoch {record.epoch}/{self.epochs}, loss {record.train_loss:.3f}, {held_out_in_words(record)}"

    def _weights(self) -> dict[str, torch.Tensor]:
        return _kept(self.model)

    def state(self) -> TrainingState:
        """Returns everything ``restore`` needs."""
        return TrainingState(
            epoch=self.epoch,
            batch=self.batch,
            loss_sum=self.loss_sum,
            history=tuple(self.history),
            weights={**self._weights(), **{f"{_EXTRA}{name}": v for name, v in _kept(self.extra).items()}},
            best=self.best,
            moments={
                f"{i}.{key}": value.to(CPU)
                for i, parameter in enumerate([*self.model.parameters(), *self.extra.parameters()])
                for key, value in self.optimizer.state.get(parameter, {}).items()
            },
            steps=self.limit,
        )

    def begin(self, state: TrainingState) -> None:
        """Resumes from rank 0's ``state`` on every rank; an empty state starts from the beginning."""
        self.ranks.check_equal(hashlib.sha256(self.fingerprint().encode()).hexdigest())
        if self.recipe.epochs:
            self.held_out.judge_start(self.model)
        self.restore(self.ranks.broadcast(state))
        self.loss = in_lockstep(self.ranks, [self.model, self.extra], self._loss)

    def restore(self, state: TrainingState) -> None:
        """Resumes from ``state``; an empty state starts from the beginning."""
        self.epoch, self.batch, self.loss_sum = state.epoch, state.batch, state.loss_sum
        self.history, self.limit = list(state.history), state.steps
        if not state.weights:
            return
        own = {name: value for name, value in state.weights.items() if not name.startswith(_EXTRA)}
        self.model.load_state_dict(own)
        extra = {name.removeprefix(_EXTRA): v for name, v in state.weights.items() if name.startswith(_EXTRA)}
        self.extra.load_state_dict(extra)
        self.best = state.best
        parameters = [*self.model.parameters(), *self.extra.parameters()]
        for name, value in state.moments.items():
            index, key = name.split(".")
            parameter = parameters[int(index)]
            # the optimiser counts its steps on the CPU wherever the weights are
            self.optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)


def _kept(network: nn.Module) -> dict[str, torch.Tensor]:
    """Returns a copy of a network's weights on the CPU."""
    return {name: value.detach().to(CPU, copy=True) for name, value in network.state_dict().items()}


def bf16_helps(plan: ShapePlan) -> bool:
    """Returns whether bfloat16 is faster: the device multiplies it natively and the model is wide enough."""
    if device_in_use().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False) and plan.embed_dim >= 192
    capabilities = torch.cpu.get_capabilities()
    native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return native and plan.embed_dim >= 192
