"""The working time of a cell: when each of its processes began, and when it last gave a sign of life."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runtime import ArtifactError
from runtime.storage.journals import RUN_LOG

FILE = "attempts.txt"
_LINE = re.compile(r"(started|seen) (\d+\.\d{3})")


@dataclass(frozen=True)
class Attempt:
    """One process at work.

    Attributes:
        started: when it began, s since 1970.
        seen: when it last gave a sign of life, a few seconds before its end at most, s since 1970.
    """

    started: float
    seen: float


@dataclass(frozen=True)
class Worked:
    """Seconds of work by purpose, without pauses between a kill and the next start.

    Attributes:
        fine_tune_s: training of the model that was pruned.
        after_s: other work on the model: training of a teacher, search, recovery.
        other_s: work beyond the model: a student trained alone to compare with, writing and checking files.
    """

    fine_tune_s: float = 0.0
    after_s: float = 0.0
    other_s: float = 0.0

    @property
    def training_s(self) -> float:
        """The time of all work on the model."""
        return self.fine_tune_s + self.after_s


_OTHER = ("alone", "export", "bench", "times", "profile")


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """Reads the attempts in a run's folder, in order; empty if there is no record."""
    path = folder / FILE
    found: list[Attempt] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        match = _LINE.fullmatch(line)
        if match is None:  # cut short by a kill
            continue
        at = float(match[2])
        if match[1] == "started":
            found.append(Attempt(at, at))
        elif found:
            found[-1] = Attempt(found[-1].started, max(found[-1].started, at))
    return tuple(found)


def begin_attempt(folder: Path, clock: Callable[[], float] = time.time) -> Callable[[], None]:
    """Notes that a process begins to work in a folder, and returns what notes that it still does.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / FILE

    def note(word: str) -> None:
        # appended to, since whoever takes up the run sweeps half-written files away
        with path.open("a", encoding="utf-8") as handle:
            handle.write(f"{word} {clock():.3f}\n")

    # what a kill cut short ends before this line begins
    broken = path.is_file() and not path.read_bytes().endswith(b"\n")
    note("\nstarted" if broken else "started")
    return lambda: note("seen")


def worked(folder: Path) -> Worked:
    """Returns how long a run's folder was worked on, by its own log.

    A stage that was killed counts up to the last sign of life of its process, also for work that had to be done again.

    Raises:
        ArtifactError: the log is damaged.
    """
    found = {"fine_tune_s": 0.0, "after_s": 0.0, "other_s": 0.0}
    for stage, seconds in _stages(folder / "log.jsonl", read_attempts(folder)):
        name = "fine_tune_s" if stage == "fine-tune" else "other_s" if stage in _OTHER else "after_s"
        found[name] += seconds
    return Worked(**found)


def _stages(path: Path, attempts: tuple[Attempt, ...]) -> list[tuple[str, float]]:
    """Returns each time that a stage was worked on, and for how long."""
    if not path.is_file():
        return []
    found: list[tuple[str, float]] = []
    begun: dict[str, float] = {}
    for event in _events(path):
        stage, at = event["stage"], datetime.fromisoformat(event["utc"]).timestamp()
        if event["event"] == "finished":
            begun.pop(stage, None)
            found.append((stage, float(event["seconds"])))
        else:
            if stage in begun:
                found.append((stage, _cut_short(begun[stage], attempts)))
            begun[stage] = at
    return found + [(stage, _cut_short(at, attempts)) for stage, at in begun.items()]


def _cut_short(at: float, attempts: tuple[Attempt, ...]) -> float:
    """Returns how long a stage went on that began at a time, kept to the second, and did not end."""
    own = [attempt for attempt in attempts if attempt.started < at + 1]
    return max(0.0, max(own, key=lambda attempt: attempt.started).seen - at) if own else 0.0


def _events(path: Path) -> list[dict[str, str]]:
    """Returns the lines of a log that tell of a stage."""
    try:
        found = [event for _, event in RUN_LOG.read(path)[1] if event["event"] in ("started", "finished")]
        for event in found:
            datetime.fromisoformat(event["utc"]), str(event["stage"])
            if event["event"] == "finished":
                float(event["seconds"])
    except (ArtifactError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged", got=error) from error
    return found
