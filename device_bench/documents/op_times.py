"""The time of one file by part or by type of operator, as a document of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime import ArtifactError, Document, MeasurementError


@dataclass(frozen=True)
class TimeRow:
    """Seconds of one image in one part or type of operator; noise may make them negative."""

    what: str
    seconds: float


@dataclass(frozen=True)
class OpTimes:
    """The time of one file by part or by type of operator.

    Attributes:
        file: name of the file, without a folder.
        sha256: SHA-256 of the file.
        by: whether a row is a part or a type of operator.
        rows: parts in their order, or types of operator.
        whole_s: seconds of the whole file in the same measurement.
        runs: timed runs of each row.
        threads: threads of the engine.
        how: method of the measurement, in words.

    Raises:
        MeasurementError: a field is impossible.
    """

    file: str
    sha256: str
    by: Literal["part", "op type"]
    rows: tuple[TimeRow, ...]
    whole_s: float
    runs: int
    threads: int
    how: str

    def __post_init__(self) -> None:
        if not self.file or re.search(r"[/\\]", self.file):
            raise MeasurementError("Times name a file without its folder", got=repr(self.file))
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise MeasurementError(f"The sha256 of {self.file} is not one", got=repr(self.sha256))
        names = [row.what for row in self.rows]
        if not names or len(set(names)) != len(names):
            raise MeasurementError(f"The times of {self.file} need rows of different names", got=", ".join(names))
        if not 0 < self.whole_s < float("inf") or min(self.runs, self.threads) < 1:
            raise MeasurementError(
                f"whole_s, runs and threads of {self.file} must be positive",
                got=f"{self.whole_s}, {self.runs}, {self.threads}",
            )
        wrong = [row.seconds for row in self.rows if not abs(row.seconds) < float("inf")]
        if wrong:
            raise MeasurementError(f"A time of {self.file} is impossible", expected="a finite number", got=wrong[0])

    @property
    def noise_s(self) -> float:
        """Sum of all negative seconds without their sign, s: the uncertainty of the other rows."""
        return sum(max(0.0, -row.seconds) for row in self.rows)


TIMES_DOCUMENT = Document("pocketvit.times", 1, OpTimes, sealed="Results are never edited by hand: measure again")


def times_path(bench: Path, file: str) -> Path:
    """Returns the path of the times of ``file`` in the folder of benches."""
    return bench / "times" / f"{file}.json"


def write_times(bench: Path, times: OpTimes) -> Path:
    """Writes ``times`` into the folder of benches and returns the path.

    Args:
        bench: folder of benches of the run.
        times: times of one file; they replace an older document of the same file.

    Raises:
        StorageError: the file cannot be written.
    """
    path = times_path(bench, times.file)
    TIMES_DOCUMENT.write(path, times)
    return path


def read_times(path: Path) -> OpTimes:
    """Reads what ``write_times`` wrote.

    Raises:
        ArtifactError: the file is missing, truncated, edited, invalid, of a newer version, or named after another
            file.
    """
    times = TIMES_DOCUMENT.read(path)
    if path.name != f"{times.file}.json":
        raise ArtifactError(f"{path} holds the times of another file", expected=path.stem, got=times.file)
    return times


def grouped(times: OpTimes) -> Mapping[str, float]:
    """Returns seconds by kind of part (attention, MLP, norms ...) or type of operator, the longest first.

    Negative times count as zero.
    """
    sums: dict[str, float] = {}
    for row in times.rows:
        kind = _kind(row.what) if times.by == "part" else row.what
        sums[kind] = sums.get(kind, 0.0) + max(0.0, row.seconds)
    return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))


def _kind(part: str) -> str:
    """Returns the kind of a part, without its place in the model."""
    _, _, within = part.partition(".")
    name = within.partition(".")[2] if part.startswith("blocks.") else part
    if part.startswith("blocks.") and not name:
        return "blocks"
    for mark, kind in (("norm", "norms"), ("attn", "attention"), ("mlp", "MLP"), ("embed", "embedding")):
        if mark in name:
            return kind
    return "operators between" if name.startswith("operators ") else name
