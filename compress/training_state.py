"""The state of an unfinished training on disk: safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from runtime import ArtifactError, EpochRecord, decode, encode

from .tensors import write_tensors


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands.

    Attributes:
        epoch: epochs finished.
        batch: batches of the current epoch finished.
        loss_sum: sum of the losses of its images so far.
        history: the finished epochs.
        weights: the model now; empty before the first step.
        best: the model at its best epoch.
        moments: the optimiser's state.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    history: tuple[EpochRecord, ...] = ()
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    fingerprint: str
    epoch: int
    batch: int
    loss_sum: float
    history: tuple[EpochRecord, ...]


def write_state(path: Path, fingerprint: str, state: TrainingState) -> None:
    """Writes ``state`` atomically; ``fingerprint`` says which training it belongs to.

    Raises:
        StorageError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    for group, values in (("weights", state.weights), ("best", state.best), ("moments", state.moments)):
        tensors |= {f"{group}/{name}": value for name, value in values.items()}
    header = _Header(_digest(fingerprint), state.epoch, state.batch, state.loss_sum, state.history)
    write_tensors(path, tensors, {"header": json.dumps(encode(header))})


def read_state(path: Path, fingerprint: str) -> TrainingState | None:
    """Reads a state, or returns None where there is none or it belongs to another training."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = decode(_Header, json.loads(file.metadata()["header"]), str(path))
            if header.fingerprint != _digest(fingerprint):
                return None
            groups: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "best": {}, "moments": {}}
            for key in file.keys():
                group, name = key.split("/", 1)
                groups[group][name] = file.get_tensor(key)
    except (SafetensorError, ArtifactError, ValueError, TypeError, KeyError, RecursionError, OSError):
        return None
    return TrainingState(header.epoch, header.batch, header.loss_sum, header.history, **groups)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
