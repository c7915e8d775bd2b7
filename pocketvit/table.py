"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from device_bench import BenchResult, RunSummary, SummaryRow, Timing, format, median_interval, p90_interval
from runtime import MULTIPLE, Artifact, LatencyTable, latency_of, macs, params

from .doctor import Finding

_WIDE = 140


def summary_tables(summary: RunSummary, width: int) -> list[Table]:
    """Returns the baseline beside the sliced model beside every file, with costs, accuracy and speed.

    One table, or two below each other where the terminal is narrower than ``_WIDE`` characters.
    """
    target = summary.targets[0] if summary.targets else None
    costs: tuple[str, ...] = ("params", "MACs", "size", "top-1", "agrees")
    speeds: tuple[str, ...] = ("median [95 % CI]", "p90", "speed-up", "memory") if target else ()
    groups = [(*costs, *speeds)] if width >= _WIDE or not speeds else [costs, speeds]
    timed = f", timed on {target}" if target else ""
    tables = []
    for group in groups:
        table = Table(header_style="bold")
        if group is groups[0]:
            table.title, table.title_justify = f"{summary.name}{timed}", "left"
        table.add_column("", overflow="fold")
        for heading in group:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in summary.rows:
            timing = row.on(target) if target else None
            if group == speeds and timing is None:
                continue
            cells = dict(
                zip((*costs, *speeds), (*_cost_cells(row), *(_timing_cells(timing) if target else ())), strict=True)
            )
            table.add_row(row.name, *(cells[heading] for heading in group), end_section=row.name == "sliced")
        tables.append(table)
    return tables


def latency_tables(table: LatencyTable) -> list[Table]:
    """Returns what the parts of the whole model take by a latency table, and how far off its predictions are."""
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


def _cost_cells(row: SummaryRow) -> tuple[str, str, str, str, str]:
    return (
        format.count(row.params),
        format.count(row.macs),
        format.size(row.size_bytes),
        format.percent(row.top1),
        format.percent(row.agreement),
    )


def _timing_cells(timing: Timing | None) -> tuple[str, str, str, str]:
    if timing is None:
        return (format.MISSING,) * 4
    return (
        format.seconds_interval(timing.median_s),
        format.seconds(timing.p90_s.value if timing.p90_s else None),
        format.times_interval(timing.speedup),
        format.size(timing.peak_rss_bytes),
    )


def artifact_table(artifacts: Sequence[Artifact]) -> Table:
    """Returns exported files with their size and how they compare with the torch model."""
    table = Table(header_style="bold")
    table.add_column("file", no_wrap=True)
    for heading in ("params", "MACs", "size", "images", "max abs", "SQNR", "agrees", "top-1", "torch top-1"):
        table.add_column(heading, justify="right", no_wrap=True)
    for artifact in artifacts:
        parity = artifact.parity
        table.add_row(
            artifact.file,
            format.count(params(artifact.plan)),
            format.count(macs(artifact.plan)),
            format.size(artifact.size_bytes),
            str(parity.images),
            format.error(parity.max_abs),
            format.decibels(parity.sqnr_db),
            format.percent(parity.top1_agreement),
            format.percent(parity.top1),
            format.percent(parity.reference_top1),
        )
    return table


def bench_table(result: BenchResult) -> Table:
    """Returns measured files with median and p90 latency and peak memory."""
    table = Table(header_style="bold")
    table.add_column("file", no_wrap=True)
    for heading in ("precision", "threads", "samples", "median [95 % CI]", "p90 [95 % CI]", "peak memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for file in result.files:
        values = file.latency.values if file.latency else ()
        table.add_row(
            file.file,
            file.precision or format.MISSING,
            str(file.threads),
            str(len(values)),
            format.seconds_interval(median_interval(values) if values else None),
            format.seconds_interval(p90_interval(values) if values else None),
            format.size(file.memory.peak_rss_bytes),
        )
    return table


def doctor_table(findings: Sequence[Finding]) -> Table:
    """Returns what was found, and the cure for what is missing."""
    table = Table(header_style="bold")
    for heading in ("area", "what", "found", "to get it"):
        table.add_column(heading, overflow="fold")
    area = None
    for finding in findings:
        missing = finding.value is None
        table.add_row(
            "" if finding.area == area else finding.area,
            finding.name,
            "missing" if missing else finding.value,
            (finding.fix or "") if missing else "",
            style="yellow" if missing else None,
        )
        area = finding.area
    return table
