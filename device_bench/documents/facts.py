"""What does not wobble about a file: its counts, its size, its accuracy; and the document that keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from runtime import Document, MeasurementError, Precision, tool_version

from .instructions import Instructions


@dataclass(frozen=True)
class Facts:
    """Figures of one file that are the same wherever and whenever they are taken, or nearly.

    Attributes:
        file: its name, without a folder.
        sha256: of its bytes.
        size_bytes: of the file.
        precision: as its manifest says; null without one.
        params: parameters of its plan; null without a manifest.
        macs: multiply-accumulates of one image; null without a manifest.
        operators: in the file; null where it could not be read.
        partitions: pieces that LiteRT hands to XNNPACK; null for other engines.
        fallbacks: operators that LiteRT computes by itself; null for other engines.
        memory_bytes: what loading and running it adds to a process at its peak; null where it was not measured.
        top1: accuracy at export, 0..1; null without a manifest or labels.
        agreement: with the model it came from at export, 0..1; null without a manifest.
        instructions: executed for one run by an emulated core; null where none were counted.

    Raises:
        MeasurementError: a figure cannot be what it says it is.
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

    def __post_init__(self) -> None:
        counts = (self.params, self.macs, self.operators, self.partitions, self.fallbacks, self.memory_bytes)
        if self.size_bytes < 1 or any(count is not None and count < 0 for count in counts):
            raise MeasurementError(f"A figure of {self.file} is impossible", expected="0 or more")
        if any(share is not None and not 0 <= share <= 1 for share in (self.top1, self.agreement)):
            raise MeasurementError(f"A share of {self.file} is impossible", expected="0 to 1")

    @property
    def all_instructions(self) -> int | None:
        """Instructions of one run; None where they were not counted."""
        return None if self.instructions is None else self.instructions.of("all")

    @property
    def simd_instructions(self) -> int | None:
        """Those of the vector and floating-point unit: what the kernels do, and the same to the instruction."""
        return None if self.instructions is None else self.instructions.of("simd")


@dataclass(frozen=True)
class Baseline:
    """Facts to hold later files against.

    Attributes:
        created_utc: when they were taken, ISO 8601 with offset.
        tool_version: of PocketViT.
        cpu_model: of the machine, for the reader.
        facts: one for each file, all of different names.

    Raises:
        MeasurementError: there is no file, or one comes twice.
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
            MeasurementError: there are none.
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
    """Returns a baseline of now."""
    return Baseline(datetime.now(UTC).isoformat(timespec="seconds"), tool_version(), cpu_model, facts)
