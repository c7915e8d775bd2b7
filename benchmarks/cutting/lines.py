"""The lines that keep what was measured: one a cell, in a file that every call appends to and tables are made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device_bench.interval import Interval
from runtime import decode, encode
from runtime.storage.documents import JsonLines

from .answers import Fidelity

Treatment = Literal["cut", "reconstructed", "recovered"]
"""What happens to a model after the widths are chosen; a recovered one is reconstructed before where its way can."""

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Spot:
    """Where a cell stands in the tables.

    Attributes:
        subject: digest of the model, its pictures and their numbers.
        calibrated_on: the set of pictures that the model was cut on.
        way: name of the way of cutting.
        share: the budget as a share of the whole model's MACs, 0..1.
        draw: number of the draw of calibration images, from 0.
    """

    subject: str
    calibrated_on: str
    way: str
    share: float
    draw: int


@dataclass(frozen=True)
class Side:
    """One judged model of a cell, which has two where a way cannot land on the budget.

    Attributes:
        macs: MACs of the model.
        embed_dim: width of its residual stream.
        fidelity: how near it is to the whole model, by set of pictures.
    """

    macs: int
    embed_dim: int
    fidelity: dict[str, Fidelity]


@dataclass(frozen=True)
class WholeLine:
    """The model before any cut.

    Attributes:
        kind: tells the lines of a file apart.
        subject: as in ``Spot``.
        model: timm's name and the input size.
        macs: MACs of the model.
        images: number of test images by set of pictures.
        top1: share of the labelled test images that it answers right, 0..1.
    """

    kind: Literal["whole"]
    subject: str
    model: str
    macs: int
    images: dict[str, int]
    top1: float


@dataclass(frozen=True)
class CutLine:
    """A cut model, judged.

    Attributes:
        kind: tells the lines of a file apart.
        spot: where it stands.
        treatment: what happened after the choice.
        minutes: wall time that a recovery was given; 0 without one.
        limit: the budget, MACs.
        sides: the judged model, or the two around the budget.
        analysis_s: wall time of the analysis, which serves all budgets, s.
        choice_s: wall time of choosing the widths, s; 0 for a way whose cut chooses them.
        cut_s: wall time of cutting, and of reconstruction, s.
        recovery_s: wall time of recovery, s.
        recovery_images: images that each model learnt from in its recovery.
        peak_bytes: most resident memory of the process during analysis, choice and cut, bytes.
    """

    kind: Literal["cut"]
    spot: Spot
    treatment: Treatment
    minutes: float
    limit: int
    sides: tuple[Side, ...]
    analysis_s: float
    choice_s: float
    cut_s: float
    recovery_s: float
    recovery_images: tuple[int, ...]
    peak_bytes: int


@dataclass(frozen=True)
class TimedSide:
    """One timed model of a cell.

    Attributes:
        macs: MACs of the model.
        ratio: its median time as a share of the whole model's.
    """

    macs: int
    ratio: Interval


@dataclass(frozen=True)
class TimeLine:
    """A cut model's file, timed in turns with the whole model's.

    Attributes:
        kind: tells the lines of a file apart.
        spot: where it stands.
        precision: of both files.
        limit: the budget, MACs.
        sides: the timed model, or the two around the budget.
        whole_s: median time of the whole model, s.
        processor: name of the machine's processor.
        notes: what disturbed the machine.
    """

    kind: Literal["time"]
    spot: Spot
    precision: Precision
    limit: int
    sides: tuple[TimedSide, ...]
    whole_s: float
    processor: str
    notes: tuple[str, ...]


Line = WholeLine | CutLine | TimeLine

_KINDS: dict[str, type[Line]] = {"whole": WholeLine, "cut": CutLine, "time": TimeLine}
_FILE = JsonLines()


def add_line(path: Path, line: Line) -> None:
    """Appends a line in one write, so that a killed process leaves at most one cut off, which is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _FILE.append(path, encode(line))


def read_lines(path: Path, subject: str) -> tuple[Line, ...]:
    """Returns the lines of a subject; none where there is no file.

    Raises:
        ArtifactError: a line is damaged.
    """
    return tuple(line for line in _all_lines(path) if _subject(line) == subject) if path.is_file() else ()


def _all_lines(path: Path) -> Iterator[Line]:
    for place, record in _FILE.read(path)[1]:
        yield decode(_KINDS[str(record.get("kind"))], record, place)


def _subject(line: Line) -> str:
    return line.subject if isinstance(line, WholeLine) else line.spot.subject
