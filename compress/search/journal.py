"""The journal of a search as JSON lines: a header, one line per step, and the units that are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.model.slicing import KeptUnits, plan_of
from runtime import ArtifactError, ShapePlan, decode, encode, write_bytes

from .base import Proposal

SCHEMA = "pocketvit.journal"
VERSION = 1


def write_journal(path: Path, settings: Mapping[str, Any], proposal: Proposal, explain: str = "") -> None:
    """Writes the settings, the steps and the outcome of a search, atomically.

    Args:
        path: the ``.jsonl`` file.
        settings: what identifies the search, JSON values.
        proposal: its outcome.
        explain: a sentence for the report on how the units were chosen.

    Raises:
        StorageError: the file cannot be written.
    """
    lines = [
        {"schema": SCHEMA, "schema_version": VERSION, "settings": dict(settings)},
        *({"step": i, **step} for i, step in enumerate(proposal.steps, 1)),
        {"plan": encode(proposal.plan), "kept": encode(proposal.kept), **({"explain": explain} if explain else {})},
    ]
    write_bytes(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())


def read_journal(path: Path, plan: ShapePlan, settings: Mapping[str, Any]) -> Proposal:
    """Reads the outcome of a finished search.

    Args:
        path: the ``.jsonl`` file.
        plan: plan of the model that was searched.
        settings: what the search must have been made with.

    Raises:
        ArtifactError: the file is missing, damaged or unfinished, or belongs to another search.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        header, *steps, last = lines
        if (header["schema"], header["schema_version"]) != (SCHEMA, VERSION) or header["settings"] != dict(settings):
            raise ArtifactError(f"{path} is the journal of another search")
        kept = decode(KeptUnits, last["kept"], f"{path}: kept")
        left = plan_of(plan, kept)
        if encode(left) != last["plan"]:
            raise ArtifactError(f"{path} is the journal of another model")
        found = tuple({key: value for key, value in step.items() if key != "step"} for step in steps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as a finished search", got=error) from error
    return Proposal(left, kept, found)
