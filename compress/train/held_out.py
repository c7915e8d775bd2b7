"""How good a network in training is on held-out images: by their labels, or without labels by its teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from compress.data.dataset import Dataset
from compress.distill.teachers import Teacher
from compress.distributed import Ranks
from compress.evaluate import score
from compress.fidelity import MOST_IMAGES, NetworkAnswers, answers_of, compared, images_to_compare, some_images
from runtime import EpochRecord, Preprocessing, Progress, ShapePlan, silent

_TIMED_IMAGES = 64


class HeldOut:
    """The held-out images of a training.

    Without labels they are at most ``images_to_compare`` random ones, and the teacher answers them once.

    Args:
        data: the dataset.
        spec: the network's input.
        teacher: the network that answers without labels.
        seed: seed of the choice of images.
        bf16: compute under bfloat16 autocast.
        device: device that computes.
        ranks: the processes that train together.
    """

    def __init__(
        self,
        data: Dataset,
        spec: Preprocessing,
        teacher: Teacher | None,
        seed: int,
        bf16: bool,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.data, self.spec, self.teacher = data, spec, teacher
        self.bf16, self.device, self.ranks = bf16, device, ranks
        self.labelled = data.labelled
        plan = getattr(teacher.network, "plan", None) if teacher else None
        most = images_to_compare(plan) if isinstance(plan, ShapePlan) else MOST_IMAGES
        self.indices = data.held_out if self.labelled else some_images(data.held_out, seed, most)
        self._taught: NetworkAnswers | None = None
        self._start: tuple[float, float] | None = None

    def record(self, network: nn.Module, epoch: int, loss: float, progress: Progress, stage: str) -> EpochRecord:
        """Returns the record of an epoch.

        Args:
            network: the network in training.
            epoch: number of the epoch, from 1.
            loss: mean training loss of the epoch.
            progress: called after every batch.
            stage: name of the work, for progress.
        """
        if self.labelled:
            found = score(
                network,
                self.data,
                self.indices,
                self.spec,
                bf16=self.bf16,
                device=self.device,
                ranks=self.ranks,
                progress=progress,
                stage=stage,
            )
            return EpochRecord(epoch, loss, found.loss, found.top1)
        likeness = compared(self._answers(network, len(self.indices), progress, stage), self.taught())
        if likeness.agreement is None or likeness.divergence is None:
            (cosine,) = self.ranks.broadcast_floats(likeness.cosine or 0.0)
            return EpochRecord(epoch, loss, None, None, held_out_cosine=cosine)
        agreement, divergence = self.ranks.broadcast_floats(likeness.agreement, likeness.divergence)
        return EpochRecord(epoch, loss, None, None, agreement, divergence)

    def judge_start(self, network: nn.Module) -> None:
        """Ranks the network before its training, if there are no labels.

        A network that was fitted to its teacher by least squares may follow it better than after a few steps.
        """
        if not self.labelled:
            self._start = rank_of(self.record(network, 0, 0.0, silent, ""))

    def is_best(self, record: EpochRecord, others: Sequence[EpochRecord]) -> bool:
        """Returns whether an epoch is better than all other ones and, without labels, than the start."""
        ranks = [rank_of(own) for own in others] + ([self._start] if self._start else [])
        return not ranks or rank_of(record) > max(ranks)

    def taught(self) -> NetworkAnswers:
        """Returns the teacher's answers."""
        assert self.teacher is not None
        if self._taught is None:
            self._taught = answers_of(
                self.teacher.network,
                self.data,
                self.indices,
                self.teacher.preprocessing,
                features=False,
                bf16=self.bf16,
                device=self.device,
                ranks=self.ranks,
            )
        return self._taught

    def seconds(self, network: nn.Module, clock: Callable[[], float]) -> float:
        """Returns the time that ``record`` takes, estimated from some of the images; the teacher answers before."""
        if not self.labelled:
            self.taught()
        count, began = min(_TIMED_IMAGES, len(self.indices)), clock()
        self._answers(network, count, silent, "")
        return (clock() - began) * len(self.indices) / count

    def _answers(self, network: nn.Module, count: int, progress: Progress, stage: str) -> NetworkAnswers:
        return answers_of(
            network,
            self.data,
            self.indices[:count],
            self.spec,
            features=False,
            bf16=self.bf16,
            device=self.device,
            ranks=self.ranks,
            progress=progress,
            stage=stage,
        )


def rank_of(record: EpochRecord) -> tuple[float, float]:
    """Returns the rank of an epoch: accuracy and then loss or, without labels, divergence and then agreement.

    The rank of a model that answers with vectors is their cosine with the teacher's.
    """
    if record.held_out_cosine is not None:
        return record.held_out_cosine, 0.0
    if record.held_out_divergence is not None:
        return -record.held_out_divergence, record.held_out_agreement or 0.0
    return record.held_out_top1 or 0.0, -(record.held_out_loss or 0.0)


def epochs_since_best(history: Sequence[EpochRecord]) -> int:
    """Returns the number of epochs after the best one, the first of equals; 0 without any epoch."""
    if not history:
        return 0
    best = max(range(len(history)), key=lambda i: (*rank_of(history[i]), -i))
    return len(history) - 1 - best


def held_out_in_words(record: EpochRecord) -> str:
    """Returns the held-out figure of an epoch in words."""
    if record.held_out_cosine is not None:
        return f"held-out cosine {record.held_out_cosine:.4f}"
    if record.held_out_agreement is not None:
        return f"held-out agreement {record.held_out_agreement:.1%}"
    return f"held-out {record.held_out_top1 or 0.0:.1%}"
