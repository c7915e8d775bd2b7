"""Saves the state of an unfinished transformable architecture search in safetensors and JSON, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from compress.model.tensors import read_groups, write_groups

_GROUPS = ("weights", "weight_moments", "logits", "logit_moments")


@dataclass(frozen=True)
class TasState:
    """The state of a search. Random numbers are not part of it: they depend on the seed and the number of the step.

    Attributes:
        step: number of finished steps.
        records: number of lines in the journal for these steps.
        weights: weights of the supernet; empty before the first step.
        weight_moments: state of the weights' optimiser.
        logits: logits of the odds, by choice.
        logit_moments: state of the logits' optimiser.
    """

    step: int = 0
    records: int = 0
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    weight_moments: Mapping[str, torch.Tensor] = field(default_factory=dict)
    logits: Mapping[str, torch.Tensor] = field(default_factory=dict)
    logit_moments: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    step: int
    records: int


def write_tas_state(path: Path, fingerprint: str, state: TasState) -> None:
    """Writes ``state`` atomically; ``fingerprint`` identifies the search.

    Raises:
        StorageError: the file cannot be written.
    """
    groups = {group: getattr(state, group) for group in _GROUPS}
    write_groups(path, fingerprint, _Header(state.step, state.records), groups)


def read_tas_state(path: Path, fingerprint: str) -> TasState | None:
    """Reads a state; returns None where it is missing, damaged, or belongs to another search."""
    found = read_groups(path, fingerprint, _Header, _GROUPS)
    if found is None:
        return None
    header, groups = found
    return TasState(header.step, header.records, **groups)


def moments_of(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns an optimiser's state, by the parameter's number and the name of the value."""
    return {f"{i}.{key}": value for i, p in enumerate(parameters) for key, value in optimizer.state.get(p, {}).items()}


def restore_moments(
    optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], moments: Mapping[str, torch.Tensor]
) -> None:
    """Restores the state that ``moments_of`` returned."""
    for name, value in moments.items():
        number, key = name.split(".")
        optimizer.state[parameters[int(number)]][key] = value
