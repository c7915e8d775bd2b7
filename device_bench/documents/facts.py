"""The facts of a file that do not vary between runs: counts, size and accuracy; and the gate's baseline of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from runtime import Document, MeasurementError, Precision, tool_version

from .instructions import Instructions

_VECTORS = {"omit_default": True}
"""Metadata of fields that are written for files that answer with a vector alone."""

_MOST_COSINE = 1 + 1e-9


@dataclass(frozen=True)
class Facts:
    """Figures of one file that are the same, or nearly, on every machine and at every time.

    Attributes:
        file: name of the file, without a folder.
        sha256: SHA-256 of the file.
        size_bytes: size of the file, bytes.
        precision: precision in the manifest; null without one.
        params: number of parameters of its plan; null without a manifest.
        macs: multiply-accumulates of one image; null without a manifest.
        operators: number of operators in the file; null if it could not be read.
        partitions: number of pieces that LiteRT gives to XNNPACK; null for other engines.
        fallbacks: number of operators that LiteRT computes itself; null for other engines.
        memory_bytes: growth of peak resident memory by loading and running the file, bytes; null if not measured.
        top1: accuracy at export, 0..1; null without a manifest or labels.
        agreement: share of images answered as by the original model at export, 0..1; null without a manifest.
        instructions: instructions of one run on an emulated core; null if not counted.
        cosine: mean cosine of the file's vectors with those of the model it came from at export, -1..1; null for files
            that do not answer with a vector, and without a manifest.
        whole_cosine: the same with the vectors of the whole model that this model was cut from; null where that is not
            known.
        whole_neighbours: share of images whose nearest neighbour among the whole model's vectors is one of the ten
            nearest to the file's own, 0..1; null as ``whole_cosine``.

    Raises:
        MeasurementError: a figure is impossible.
    """

    file: str
    sha256: str
    size_bytes: int
    precision: Precision | None = None
    params: int | None = None
    macs: int | None = None
    operators: int | None = None
    partitions: int | None = None
    fallbacks: int | None = None
    memory_bytes: int | None = None
    top1: float | None = None
    agreement: float | None = None
    instructions: Instructions | None = None
    cosine: float | None = field(default=None, metadata=_VECTORS)
    whole_cosine: float | None = field(default=None, metadata=_VECTORS)
    whole_neighbours: float | None = field(default=None, metadata=_VECTORS)

    def __post_init__(self) -> None:
        counts = (self.params, self.macs, self.operators, self.partitions, self.fallbacks, self.memory_bytes)
        if self.size_bytes < 1 or any(count is not None and count < 0 for count in counts):
            raise MeasurementError(f"A figure of {self.file} is impossible", expected="0 or more")
        shares = (self.top1, self.agreement, self.whole_neighbours)
        if any(share is not None and not 0 <= share <= 1 for share in shares):
            raise MeasurementError(f"A share of {self.file} is impossible", expected="0 to 1")
        if any(own is not None and abs(own) > _MOST_COSINE for own in (self.cosine, self.whole_cosine)):
            raise MeasurementError(f"A cosine of {self.file} is impossible", expected="-1 to 1")

    @property
    def all_instructions(self) -> int | None:
        """Instructions of one run; None if not counted."""
        return None if self.instructions is None else self.instructions.of("all")

    @property
    def simd_instructions(self) -> int | None:
        """Instructions of the vector and floating-point unit in one run, exactly reproducible; None if not counted."""
        return None if self.instructions is None else self.instructions.of("simd")


@dataclass(frozen=True)
class Baseline:
    """Facts that the gate compares later files with.

    Attributes:
        created_utc: time of the measurement, ISO 8601 with offset.
        tool_version: version of PocketViT.
        cpu_model: name of the machine's processor, for the reader.
        facts: facts of each file; the names differ.

    Raises:
        MeasurementError: there is no file, or two have the same name.
    """

    created_utc: str
    tool_version: str
    cpu_model: str | None
    facts: tuple[Facts, ...]

    def __post_init__(self) -> None:
        names = [facts.file for facts in self.facts]
        if not names or len(set(names)) != len(names):
            raise MeasurementError("A baseline needs files of different names", got=", ".join(names) or "none")

    def of(self, file: str) -> Facts:
        """Returns the facts of the file of that name.

        Raises:
            MeasurementError: there are none of that name.
        """
        for facts in self.facts:
            if facts.file == file:
                return facts
        raise MeasurementError(
            f"The baseline knows no {file}",
            expected=", ".join(facts.file for facts in self.facts),
            fix="Name the file as before, or take it up with --update-baseline",
        )


BASELINE_DOCUMENT = Document(
    "pocketvit.gate-baseline",
    2,
    Baseline,
    sealed="A baseline is never edited by hand: take it anew with --update-baseline",
)


def baseline_of(facts: tuple[Facts, ...], cpu_model: str | None) -> Baseline:
    """Returns a baseline with the current time."""
    return Baseline(datetime.now(UTC).isoformat(timespec="seconds"), tool_version(), cpu_model, facts)
