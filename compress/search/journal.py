"""The journal of a search as JSON lines: a header, one line per step, and the units that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.model.slicing import KeptUnits, plan_of
from runtime import ArtifactError, ShapePlan, decode, encode
from runtime.storage.journals import STEPS_JOURNAL

from .base import Proposal


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
    steps = ({"step": number, **step} for number, step in enumerate(proposal.steps, 1))
    outcome = {
        "plan": encode(proposal.plan),
        "kept": encode(proposal.kept),
        **({"explain": explain} if explain else {}),
    }
    STEPS_JOURNAL.write(path, {"settings": dict(settings)}, (*steps, outcome))


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
        header, lines = STEPS_JOURNAL.read(path)
        *steps, last = (line for _, line in lines)
        if header["settings"] == dict(settings):
            kept = decode(KeptUnits, last["kept"], f"{path}: kept")
            left, recorded = plan_of(plan, kept), decode(ShapePlan, last["plan"], f"{path}: plan")
    except (ArtifactError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read as a finished search", got=error) from error
    if header["settings"] != dict(settings):
        raise ArtifactError(f"{path} is the journal of another search")
    if left != recorded:
        raise ArtifactError(f"{path} is the journal of another model")
    return Proposal(left, kept, tuple({key: value for key, value in step.items() if key != "step"} for step in steps))
