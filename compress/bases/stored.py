"""An analysis in a file, so that a run that was stopped goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.importance.units import BlockImportance, Floats, Importance
from compress.model.coordinates import Coordinates
from compress.model.tensors import Tensors, read_groups, write_groups
from compress.model.vit import build
from runtime import PlanError, ShapePlan

from .analysis import BasisAnalysis
from .moments import BlockMoments, Moments, moment_tensors

_NAMES = ("queries", "keys", "mixed", "hidden")


@dataclass(frozen=True)
class _Header:
    plan: ShapePlan


def write_bases(path: Path, fingerprint: str, analysis: BasisAnalysis) -> None:
    """Writes an analysis, so that a run that was stopped can go on with it.

    Args:
        path: the file.
        fingerprint: text that identifies the model, the images and the settings.
        analysis: the analysis.

    Raises:
        StorageError: the file cannot be written.
    """
    moments, importance = analysis.moments, analysis.importance
    tensors = {"stream": moments.stream.float()} | {f"inputs.{k}": v.float() for k, v in moments.inputs.items()}
    ranks = {"embed": torch.from_numpy(importance.embed)}
    for i, own in enumerate(moments.blocks):
        tensors |= {f"{i}.{name}": value.float() for name, value in zip(_NAMES, moment_tensors(own), strict=True)}
        block = importance.blocks[i]
        ranks |= {f"{i}.qk": torch.from_numpy(block.qk), f"{i}.v": torch.from_numpy(block.v)}
        ranks[f"{i}.mlp"] = torch.from_numpy(block.mlp)
    groups = {
        "model": analysis.model.state_dict(),
        "moments": tensors,
        "importance": ranks,
        "coordinates": {"matrix": analysis.coordinates.matrix, "shift": analysis.coordinates.shift},
    }
    write_groups(path, fingerprint, _Header(analysis.model.plan), groups)


def read_bases(path: Path, fingerprint: str) -> BasisAnalysis | None:
    """Reads an analysis; returns None where the file is missing, damaged, or belongs to other work."""
    found = read_groups(path, fingerprint, _Header, ("model", "moments", "importance", "coordinates"))
    try:
        return None if found is None else _analysis(*found)
    except (KeyError, PlanError):
        return None


def _analysis(header: _Header, groups: Mapping[str, Tensors]) -> BasisAnalysis:
    own, ranks = {name: value.double() for name, value in groups["moments"].items()}, groups["importance"]
    count = len(header.plan.blocks)
    blocks = tuple(BlockMoments(*(own[f"{i}.{name}"] for name in _NAMES)) for i in range(count))
    inputs = {name.removeprefix("inputs."): value for name, value in own.items() if name.startswith("inputs.")}

    def rank(name: str) -> Floats:
        values: Floats = ranks[name].numpy()
        return values

    importance = Importance(
        rank("embed"),
        tuple(BlockImportance(rank(f"{i}.qk"), rank(f"{i}.v"), rank(f"{i}.mlp")) for i in range(count)),
    )
    return BasisAnalysis(
        build(header.plan, groups["model"]),
        importance,
        Moments(blocks, own["stream"], inputs),
        Coordinates(groups["coordinates"]["matrix"], groups["coordinates"]["shift"]),
    )
