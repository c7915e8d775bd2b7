"""The journal of a profile: the time of every file and of the model itself, written at once."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from runtime import ArtifactError, BlockPlan, JsonLines, ShapePlan

from .files import Timed

TIMES_JOURNAL = JsonLines()


def time_line(plan: ShapePlan, pooled_only: bool, seconds: float, conditions: dict[str, Any]) -> dict[str, Any]:
    """Returns the line of one file's time; ``conditions`` are the other fields of ``Taken``."""
    rows = [[block.num_heads, block.qk_dim, block.v_dim, block.mlp_dim] for block in plan.blocks]
    return {"embed_dim": plan.embed_dim, "blocks": rows, "pooled_only": pooled_only, "seconds": seconds, **conditions}


@dataclass(frozen=True)
class Taken:
    """One time of one file.

    Attributes:
        file: the file that was timed.
        stage: stage of the profile.
        seconds: time of a run, s.
        reference_seconds: time of the model itself, measured in turns with the file, s.
        note: what disturbed the machine; empty if nothing did.
    """

    file: Timed
    stage: str
    seconds: float
    reference_seconds: float
    note: str


@dataclass(frozen=True)
class ProfileTimes:
    """The times of a profile.

    Attributes:
        lines: the lines of the journal, in order.
    """

    lines: tuple[Taken, ...]

    def count(self) -> Counter[Timed]:
        """Returns how often each file was timed."""
        return Counter(line.file for line in self.lines)

    def taken(self) -> dict[Timed, list[float]]:
        """Returns the times of each file, ns, scaled to the usual speed of the machine."""
        usual = {
            stage: median(line.reference_seconds for line in self.lines if line.stage == stage)
            for stage in {line.stage for line in self.lines}
        }
        times: dict[Timed, list[float]] = {}
        for line in self.lines:
            times.setdefault(line.file, []).append(line.seconds / line.reference_seconds * usual[line.stage] * 1e9)
        return times

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the reader of the table."""
        disturbed = [line.note for line in self.lines if line.note]
        if not disturbed:
            return ()
        return (
            f"{len(disturbed) / len(self.lines):.0%} of the latency table's times were taken while the machine was "
            f"disturbed, and its predictions may be off. At the last of them: {disturbed[-1]} "
            "On an idle machine, measure anew with: pocketvit profile --force",
        )


def read_profile_times(journal: Path, plan: ShapePlan) -> ProfileTimes:
    """Returns what a journal holds; a last line cut short by a kill is left out.

    Raises:
        ArtifactError: it is damaged.
    """
    if not journal.is_file():
        return ProfileTimes(())
    try:
        return ProfileTimes(tuple(_read_line(line, plan) for _, line in TIMES_JOURNAL.read(journal)[1]))
    except (ArtifactError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{journal} is damaged", got=error, fix="Measure anew with --force") from error


def _read_line(line: dict[str, Any], plan: ShapePlan) -> Taken:
    seconds, reference = float(line["seconds"]), float(line["reference_seconds"])
    if not (0 < seconds < math.inf and 0 < reference < math.inf):
        raise ValueError(f"times of {seconds} and {reference} s")
    if not isinstance(line["pooled_only"], bool):
        raise ValueError(f"pooled_only is {line['pooled_only']}")
    one = replace(plan, embed_dim=line["embed_dim"], blocks=tuple(BlockPlan(*row) for row in line["blocks"]))
    note = " ".join(line.get("notes", []))
    return Taken((one, line["pooled_only"]), str(line["stage"]), seconds, reference, note)
