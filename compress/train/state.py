"""Saves the state of an unfinished training in safetensors and JSON, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from compress.model.tensors import read_groups, write_groups
from runtime import EpochRecord

_GROUPS = ("weights", "best", "moments")


@dataclass(frozen=True)
class TrainingState:
    """The state of a training.

    Attributes:
        epoch: number of finished epochs.
        batch: number of finished batches in the current epoch.
        loss_sum: sum of the losses of the current epoch's images so far.
        history: records of the finished epochs.
        weights: current weights; empty before the first step.
        best: weights of the best epoch.
        moments: the optimiser's state.
        steps: number of steps of the whole training where a time limit fixed it; 0 where none did.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    history: tuple[EpochRecord, ...] = ()
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: Mapping[str, torch.Tensor] = field(default_factory=dict)
    steps: int = 0


@dataclass(frozen=True)
class _Header:
    epoch: int
    batch: int
    loss_sum: float
    history: tuple[EpochRecord, ...]
    steps: int = 0


def write_training_state(path: Path, fingerprint: str, state: TrainingState) -> None:
    """Writes ``state`` atomically; ``fingerprint`` identifies the training.

    Raises:
        StorageError: the file cannot be written.
    """
    groups = {group: getattr(state, group) for group in _GROUPS}
    write_groups(
        path, fingerprint, _Header(state.epoch, state.batch, state.loss_sum, state.history, state.steps), groups
    )


def read_training_state(path: Path, fingerprint: str) -> TrainingState | None:
    """Reads a state; returns None where it is missing, damaged, or belongs to another training."""
    found = read_groups(path, fingerprint, _Header, _GROUPS)
    if found is None:
        return None
    header, groups = found
    return TrainingState(header.epoch, header.batch, header.loss_sum, header.history, steps=header.steps, **groups)
