"""The state of an unfinished transformable architecture search on disk: safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from runtime import ArtifactError, decode, encode

from .tensors import write_tensors

_GROUPS = ("weights", "weight_moments", "logits", "logit_moments")


@dataclass(frozen=True)
class TasState:
    """Where a search stands. What is random is drawn anew for every step from the seed and the step's number.

    Attributes:
        step: steps finished.
        records: lines of the journal that belong to them.
        weights: of the supernet; empty before the first step.
        weight_moments: of their optimiser.
        logits: of the odds, by choice.
        logit_moments: of their optimiser.
    """

    step: int = 0
    records: int = 0
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    weight_moments: Mapping[str, torch.Tensor] = field(default_factory=dict)
    logits: Mapping[str, torch.Tensor] = field(default_factory=dict)
    logit_moments: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    fingerprint: str
    step: int
    records: int


def write_tas_state(path: Path, fingerprint: str, state: TasState) -> None:
    """Writes ``state`` atomically; ``fingerprint`` says which search it belongs to.

    Raises:
        StorageError: the file cannot be written.
    """
    tensors = {f"{group}/{name}": value for group in _GROUPS for name, value in getattr(state, group).items()}
    header = _Header(_digest(fingerprint), state.step, state.records)
    write_tensors(path, tensors, {"header": json.dumps(encode(header))})


def read_tas_state(path: Path, fingerprint: str) -> TasState | None:
    """Reads a state, or returns None where there is none, it is damaged, or it belongs to another search."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = decode(_Header, json.loads(file.metadata()["header"]), str(path))
            if header.fingerprint != _digest(fingerprint):
                return None
            groups: dict[str, dict[str, torch.Tensor]] = {group: {} for group in _GROUPS}
            for key in file.keys():
                group, name = key.split("/", 1)
                groups[group][name] = file.get_tensor(key)
    except (SafetensorError, ArtifactError, ValueError, TypeError, KeyError, RecursionError, OSError):
        return None
    return TasState(header.step, header.records, **groups)


def moments_of(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns an optimiser's state, by number of the parameter and name."""
    return {f"{i}.{key}": value for i, p in enumerate(parameters) for key, value in optimizer.state.get(p, {}).items()}


def restore_moments(
    optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], moments: Mapping[str, torch.Tensor]
) -> None:
    """Puts back what ``moments_of`` returned."""
    for name, value in moments.items():
        number, key = name.split(".")
        optimizer.state[parameters[int(number)]][key] = value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
