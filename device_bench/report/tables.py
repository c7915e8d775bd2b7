"""The sections of the report that are one table: refusals, failures, targets, gains, parity, losses, calibration."""

from __future__ import annotations

from device_bench import format
from device_bench.columns import NONE, Cell, Column, split_columns
from device_bench.report.render.document import Heading, Paragraph, Section, Table, TableRow, blocks, table
from runtime import Artifact, Calibration, ClassLoss

from .gain import Gain
from .rows import SummaryRow, Timing
from .summary import REFUSED_BEFORE, RunSummary

_MOST_CLASSES = 10


def _loss(artifact: Artifact) -> str | None:
    """Returns the points of top-1 lost with their bounds, for a file that was judged by them."""
    parity, bounds = artifact.parity, artifact.drop_bounds
    if bounds is None or parity.top1 is None or parity.reference_top1 is None:
        return None
    return f"{100 * (parity.reference_top1 - parity.top1):.2f} [{bounds[0]:.2f}, {bounds[1]:.2f}]"


def _near_ties(artifact: Artifact) -> str | None:
    """Returns how many answers differ from the torch model's, and how many of those are near ties."""
    parity = artifact.parity
    if parity.near_tie_changes is None or parity.top1_agreement is None:
        return None
    return f"{round((1 - parity.top1_agreement) * parity.images)}, {parity.near_tie_changes}"


def _top1(artifact: Artifact) -> str | None:
    parity = artifact.parity
    if parity.vectors is not None:
        return None
    return f"{format.percent(parity.reference_top1)} → {format.percent(parity.top1)}"


def _cosine(artifact: Artifact) -> float | None:
    return artifact.parity.vectors.cosine if artifact.parity.vectors else None


def _neighbours(artifact: Artifact) -> float | None:
    return artifact.parity.vectors.neighbours if artifact.parity.vectors else None


PARITY_COLUMNS: tuple[Column[Artifact], ...] = (
    Column("Images", lambda own: own.parity.images, format.whole, short="images"),
    Column("Largest difference", lambda own: own.parity.max_abs, format.error, short="max abs"),
    Column("Relative to largest logit", lambda own: own.parity.max_rel, format.error, views=frozenset({"report"})),
    Column("SQNR", lambda own: "identical" if own.parity.sqnr_db is None else format.decibels(own.parity.sqnr_db)),
    Column("Mean cosine", _cosine, format.cosine, short="cosine"),
    Column("Neighbours kept", _neighbours, format.percent, short="neighbours"),
    Column("Same top-1", lambda own: own.parity.top1_agreement, format.percent, short="agrees"),
    Column(
        "Top-1, torch → file",
        _top1,
        views=frozenset({"report"}),
    ),
    Column("Points of top-1 lost", _loss, split_columns, views=frozenset({"report"})),
    Column("Other answers, near ties", _near_ties, views=frozenset({"report"})),
)
"""How a written file compares with the torch model it came from."""

_REFUSED: tuple[Column[Artifact], ...] = (
    Column("Cosine", _cosine, format.cosine),
    Column("Agrees", lambda own: own.parity.top1_agreement, format.percent),
    Column("SQNR", lambda own: own.parity.sqnr_db, format.decibels),
    Column("Images", lambda own: own.parity.images),
    Column("Recipe", lambda own: own.recipe),
    Column("Why", lambda own: own.refused or REFUSED_BEFORE, long=True),
)
_FAILED: tuple[Column[tuple[str, str, str]], ...] = (
    Column("On", lambda own: own[1]),
    Column("What went wrong", lambda own: own[2], long=True),
)
_GAINS: tuple[Column[Gain], ...] = (
    Column("Against", lambda own: own.baseline),
    Column("On", lambda own: own.target),
    Column("MACs left", lambda own: own.macs_share, format.percent),
    Column("Promised by MACs", lambda own: own.promised, format.times),
    Column("Predicted by the latency table", lambda own: own.table, format.times),
    Column("Measured", lambda own: own.measured, lambda ratio: split_columns(format.times_interval(ratio))),
)
_CLASS_LOSSES: tuple[Column[tuple[Artifact, ClassLoss]], ...] = (
    Column("Class", lambda own: own[1].name, words=True),
    Column("Images", lambda own: own[1].images, format.whole),
    Column("Right by torch alone", lambda own: own[1].lost, format.whole),
    Column("Right by the file alone", lambda own: own[1].gained, format.whole),
)
_CALIBRATION: tuple[Column[tuple[Artifact, Calibration]], ...] = (
    Column("Data", lambda own: own[1].data),
    Column("Split", lambda own: own[1].split),
    Column("Images", lambda own: own[1].images, format.whole),
    Column("Seed", lambda own: own[1].seed),
    Column("Recipe", lambda own: own[0].recipe),
)


def refusals(summary: RunSummary) -> Section | None:
    """Returns the files that did not pass their check."""
    note = (
        "These files did not pass their check. They are kept in artifacts/rejected with their manifests, and are in no "
        "figure of this report."
    )
    made = table("File", _REFUSED, summary.refused, lambda own: own.file, style="text refused")
    return Section("Refused", (Paragraph(note), made), failed=True) if made else None


def failures(summary: RunSummary) -> Section | None:
    """Returns the files and targets that could not be measured."""
    rows = [(failure.file, target, failure.what) for target, failure in summary.failures]
    rows += [("every file", own.target, f"{own.what} ({own.created_utc})") for own in summary.unmeasured]
    made = table("File", _FAILED, rows, lambda own: own[0], style="text")
    note = "These files have no figures; the report is about the others."
    return Section("Not measured", (Paragraph(note), made), failed=True) if made else None


def overview(summary: RunSummary) -> Section | None:
    """Returns the cost and the accuracy of each file on each target; None for fewer than two targets."""
    if len(summary.targets) < 2:
        return None
    rows = [row for row in summary.rows if row.timings]
    timings = [timing for row in rows for timing in row.timings]
    emulated = {timing.target for timing in timings if timing.emulated}
    headings = tuple(
        Heading(target, "emulated: no time", f"{target} (emulated)") if target in emulated else Heading(target)
        for target in summary.targets
    )
    lines = tuple(TableRow(row.name, tuple(_on_target(row, target) for target in summary.targets)) for row in rows)
    words = (
        "Times are median latencies." if any(timing.median_s for timing in timings) else "",
        "An emulated target has no time: instr. are the instructions executed for one run." if emulated else "",
        "Top-1 is that of the file on the target, where it was measured there.",
    )
    table = Table("File", headings, lines, style="every", wide=True)
    return Section("Every target", (Paragraph(" ".join(filter(None, words))), table))


def cost_text(timing: Timing) -> str:
    """Returns the median latency of a file with its interval or, on a target without time, its instructions."""
    if timing.emulated:
        return f"{format.count(timing.instructions.of('all'))} instr." if timing.instructions else format.MISSING
    return format.seconds_interval(timing.median_s)


def _on_target(row: SummaryRow, target: str) -> Cell:
    timing = row.on(target)
    if timing is None:
        return NONE
    return Cell(
        split_columns(cost_text(timing)).value,
        f"top-1 {format.percent(timing.top1)}" if timing.top1 is not None else "",
    )


def gains_section(summary: RunSummary) -> Section | None:
    """Returns the speed-up that the MACs promise, and the measured one."""
    note = (
        "What pruning alone bought: each sliced file against the baseline's file of the same format and precision, "
        "measured turn by turn. The promise of MACs is the speed-up if time went with them."
    )
    made = table("File", _GAINS, summary.gains, lambda own: own.file)
    short = [Paragraph(gain.sentence, "warning") for gain in summary.gains if gain.falls_short]
    return Section("Promised and measured", blocks(Paragraph(note), made, short)) if made else None


def parity(summary: RunSummary) -> Section | None:
    """Returns how each file compares with its torch model."""
    made = table("File", PARITY_COLUMNS, summary.artifacts, lambda own: own.file)
    note = (
        "Each written file against the torch model it came from, on the same images. Brackets are one-sided 95 % "
        "bounds. A near tie is an image whose two largest logits are closer than the file's error: rounding decides it."
    )
    return Section("Parity", (Paragraph(note), made)) if made else None


def class_losses(summary: RunSummary) -> Section | None:
    """Returns the classes on which each file lost the most, at most ten for a file."""
    rows = []
    for artifact in summary.artifacts:
        worst = sorted(artifact.class_losses, key=lambda own: own.gained - own.lost)
        rows += [(artifact, own) for own in worst[:_MOST_CLASSES] if own.lost > own.gained]
    made = table("File", _CLASS_LOSSES, rows, lambda own: own[0].file, style="text")
    note = (
        "The classes on which a file lost more images than it gained against the torch model, at most "
        f"{_MOST_CLASSES} for a file, on the images of the table above."
    )
    return Section("Loss by class", (Paragraph(note), made)) if made else None


def calibration(summary: RunSummary) -> Section | None:
    """Returns the images that set the integer ranges."""
    rows = [(own, own.calibration) for own in summary.artifacts if own.calibration]
    made = table("File", _CALIBRATION, rows, lambda own: own[0].file, style="text")
    note = "The images whose activations set the integer ranges; never those of the test split."
    return Section("Calibration", (Paragraph(note), made)) if made else None
