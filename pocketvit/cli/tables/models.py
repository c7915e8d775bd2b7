"""Models on a terminal: latency tables, exported files, and files that were refused or released with a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from device_bench import format
from device_bench.columns import Column
from device_bench.report.summary import REFUSED_BEFORE
from device_bench.report.tables import PARITY_COLUMNS
from runtime import MULTIPLE, Artifact, LatencyTable, Parity, latency_of

if TYPE_CHECKING:
    from compress.model.catalogue import ListedModel

_ARTIFACT: tuple[Column[Artifact], ...] = (
    Column("params", lambda own: own.params, format.count),
    Column("MACs", lambda own: own.macs, format.count),
    Column("size", lambda own: own.size_bytes, format.size),
    *(column for column in PARITY_COLUMNS if "report" not in column.views),
    Column("top-1", lambda own: own.parity.top1, format.percent),
    Column("torch top-1", lambda own: own.parity.reference_top1, format.percent),
)


def latency_tables(table: LatencyTable) -> list[Table]:
    """Returns the time of the model's parts by a latency table, and the error of its predictions."""
    plan, latency = table.baseline, latency_of(table)
    whole = latency(plan)

    def without(**widths: int) -> int:
        blocks = tuple(replace(block, **widths) for block in plan.blocks)
        return whole - latency(replace(plan, blocks=blocks))

    mlp = without(mlp_dim=MULTIPLE)
    attention = without(num_heads=1, qk_dim=MULTIPLE, v_dim=MULTIPLE)
    parts, checks = Table(header_style="bold"), Table(header_style="bold")
    for heading in ("", "time", "share"):
        parts.add_column(heading, justify="right" if heading else "left")
    rows = [("MLPs", mlp), ("attentions", attention), ("all else", whole - mlp - attention)]
    for name, time in rows:
        parts.add_row(name, format.seconds(time * 1e-9), format.percent(time / whole), end_section=name == "all else")
    parts.add_row("whole model", format.seconds(whole * 1e-9), "")
    for heading in ("predicted", "measured", "off by"):
        checks.add_column(heading, justify="right")
    for check in table.checks:
        checks.add_row(
            format.seconds(check.predicted_ns * 1e-9),
            format.seconds(check.measured_ns * 1e-9),
            format.percent(check.error),
        )
    return [parts, checks]


def artifact_table(artifacts: Sequence[Artifact]) -> Table:
    """Returns exported files with their size and how they compare with the torch model, in figures that some have."""
    table = Table(header_style="bold")
    table.add_column("file", no_wrap=True)
    columns = [column for column in _ARTIFACT if any(column.value(own) is not None for own in artifacts)]
    for column in columns:
        table.add_column(column.short or column.heading, justify="right", no_wrap=True)
    for artifact in artifacts:
        table.add_row(artifact.file, *(column.terminal(artifact) for column in columns))
    return table


def agreement_of(parity: Parity) -> str:
    """Returns how far a file agrees with the model it came from, in words."""
    if parity.vectors is not None:
        return f"cosine {format.cosine(parity.vectors.cosine)}"
    return f"agrees {format.percent(parity.top1_agreement)}"


def refused_lines(refused: Sequence[Artifact]) -> list[Text]:
    """Returns a line for each file that was not released: how close it came, and why it was refused."""
    lines = []
    for artifact in refused:
        parity = artifact.parity
        figures = (
            f"{agreement_of(parity)} of {parity.images} images, "
            f"SQNR {format.decibels(parity.sqnr_db)}, by {artifact.recipe}"
        )
        lines.append(Text(f"REFUSED: {artifact.file} ({figures}): {artifact.refused or REFUSED_BEFORE}", "bold red"))
    return lines


def unproven_lines(artifacts: Sequence[Artifact]) -> list[Text]:
    """Returns a line for each file that was released with a warning, and one line for a note that many files share."""
    from export.gate.limits import is_note

    said = [own.unproven for own in artifacts if own.unproven]
    warnings = [Text(f"UNPROVEN: {text}", "bold yellow") for text in said if not is_note(text)]
    return warnings + [Text(f"NOTE: {text}") for text in dict.fromkeys(said) if is_note(text)]


def gpu_lines(artifacts: Sequence[Artifact]) -> list[Text]:
    """Returns a line for each file that is wrong on GPUs."""
    wrong = [(own.file, own.parity.gpu.wrong) for own in artifacts if own.parity.gpu and own.parity.gpu.wrong]
    return [Text(f"WRONG ON GPUs, for the CPU alone: {file}. {why}", "bold red") for file, why in wrong]


def catalogue_table(models: Sequence[ListedModel]) -> Table:
    """Returns timm's architectures with what can be done with them."""
    table = Table(header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("use")
    table.add_column("params", justify="right")
    table.add_column("MACs", justify="right")
    table.add_column("refused because of")
    for own in models:
        counts = ("" if value is None else format.count(value) for value in (own.params, own.macs))
        table.add_row(own.name, own.use, *counts, own.reason or "")
    return table
