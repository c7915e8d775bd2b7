"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from device_bench import BenchResult, RunSummary, SummaryRow, Timing, format, median_interval, p90_interval
from runtime import MULTIPLE, Artifact, LatencyTable, latency_of, macs, params

from .doctor import Finding

if TYPE_CHECKING:  # export loads torch, which most tables have no use for
    from export import Inspection, Verification

_WIDE = 140
_NOISE = 0.05
"""Parts whose times came out negative by so much of the whole are told of."""


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


def inspection_tables(found: Inspection) -> list[RenderableType]:
    """Returns what is in a file: operators, bytes, widths, partitions and times, and the reason for what is missing."""
    contents = found.contents
    ops, sizes = Table(header_style="bold"), Table(header_style="bold")
    ops.title, ops.title_justify = f"{found.file}, {format.size(contents.size_bytes)}", "left"
    for heading in ("operator", "precision", "count", "MACs"):
        ops.add_column(heading, justify="left" if heading in ("operator", "precision") else "right")
    for row in contents.ops:
        macs = "" if row.macs == 0 else format.count(row.macs)
        ops.add_row(_shown(row.kind), _shown(row.precision), str(row.count), macs)
    for heading in ("bytes of", "type", "tensors", "size", "share"):
        sizes.add_column(heading, justify="left" if heading in ("bytes of", "type") else "right")
    for size in contents.sizes:
        share = format.percent(size.size_bytes / contents.size_bytes) if contents.size_bytes else format.MISSING
        tensors = format.MISSING if size.tensors is None else str(size.tensors)
        sizes.add_row(size.kind, _shown(size.dtype or format.MISSING), tensors, format.size(size.size_bytes), share)
    return [ops, sizes, _widths_part(found), _partitions_part(found), *_times_part(found)]


def _shown(text: str) -> Text:
    """Returns a text of a file's as it stands there, short and without what a terminal would obey."""
    return Text("".join(c if c.isprintable() else "?" for c in text[:80]))


def _widths_part(found: Inspection) -> RenderableType:
    if found.widths is None:
        return Text(f"Widths: not known, {found.widths_reason}")
    table = Table(header_style="bold")
    table.title, table.title_justify = f"Widths: embed_dim {found.widths.embed_dim}", "left"
    for heading in ("block", "heads", "qk", "v", "mlp"):
        table.add_column(heading, justify="right")
    for i, block in enumerate(found.widths.blocks):
        table.add_row(*map(str, (i, block.num_heads, block.qk_dim, block.v_dim, block.mlp_dim)))
    return table


def _partitions_part(found: Inspection) -> RenderableType:
    parts = found.partitions
    if parts.pieces is None or parts.fallback is None:
        return Text(f"Delegate: not known, {parts.reason}")
    if parts.whole:
        return Text(f"Delegate: XNNPACK takes all {parts.pieces[0]} operators in one piece, none falls back", "green")
    fallen = ", ".join(f"{count} {_shown(kind)}" for kind, count in parts.fallback.items()) or "no operator"
    taken = f"XNNPACK takes {sum(parts.pieces)} operators in {len(parts.pieces)} pieces"
    return Text(f"DELEGATE FALL-BACK: {taken}; LiteRT's own kernels compute {fallen}", "bold red")


def _times_part(found: Inspection) -> list[RenderableType]:
    times = found.times
    if times is None:
        return [Text(f"Times: not measured, {found.times_reason}")]
    table = Table(header_style="bold")
    table.title, table.title_justify = f"Whole file {format.seconds(times.whole_s)}, {times.threads} thread(s)", "left"
    for heading in (times.by, "time", "share"):
        table.add_column(heading, justify="left" if heading == times.by else "right")
    total = sum(max(0.0, row.seconds) for row in times.rows)
    for row in times.rows:
        # noise makes the smallest differences negative
        time = max(0.0, row.seconds)
        share = format.percent(time / total) if total else format.MISSING
        table.add_row(_shown(row.what), format.seconds(time), share)
    how = Text(f"Measured by: {times.how}")
    noise = -sum(min(0.0, row.seconds) for row in times.rows)
    if noise <= _NOISE * times.whole_s:
        return [table, how]
    loud = f"NOISY: parts came out up to {format.seconds(noise)} below nothing; run it again on an idle machine"
    return [table, how, Text(loud, "bold red")]


def verification_tables(found: Verification) -> list[RenderableType]:
    """Returns every check with what was found, the manifest's parity, and the comparison with another engine."""
    checks, parity = Table(header_style="bold"), found.parity
    checks.title, checks.title_justify = found.file, "left"
    for heading in ("check", "", "found"):
        checks.add_column(heading, overflow="fold")
    for check in found.checks:
        style = None if check.passed else "bold red"
        checks.add_row(check.name, "ok" if check.passed else "FAILED", Text(check.found), style=style)
    recorded = Text(
        f"Recorded when it was exported: {parity.images} images, max abs {format.error(parity.max_abs)}, "
        f"SQNR {format.decibels(parity.sqnr_db)}, agrees {format.percent(parity.top1_agreement)}"
    )
    other = found.comparison
    if other is None:
        return [checks, recorded]
    compared = Text(
        f"With {other.engine} {other.version} on {found.images} random images: max abs {format.error(other.max_abs)}, "
        f"agrees {format.percent(other.top1_agreement)}"
    )
    return [checks, recorded, compared, *([_gpu_part(found)] if other.gpu else [])]


def _gpu_part(found: Verification) -> Text:
    assert found.comparison is not None
    assert found.comparison.gpu is not None
    gpu = found.comparison.gpu
    if gpu.compatible is None:
        return Text("GPU delegate: TensorFlow's analyzer did not say")
    if gpu.compatible:
        return Text("GPU delegate: looks compatible, by TensorFlow's analyzer", "green")
    issues = "".join(f"\n  {count} x {_shown(issue)}" for issue, count in gpu.issues.items())
    return Text(f"GPU DELEGATE: not compatible, by TensorFlow's analyzer{issues}", "bold red")
