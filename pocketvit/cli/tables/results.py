"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from device_bench import format
from device_bench.documents.figures import Energy, EnergyTier, Startup, Throughput
from device_bench.documents.instructions import Instructions
from device_bench.documents.results import BenchResult, FileResult
from device_bench.metrics.stats import median_interval, p90_interval, percentile
from device_bench.report.summary import REFUSED_BEFORE, RunSummary, Timing
from device_bench.targets.finding import Finding
from runtime import MULTIPLE, Artifact, LatencyTable, latency_of

from .fitted import fitted

if TYPE_CHECKING:  # export loads torch, which most tables have no use for
    from export.inspect.check_file import Verification
    from export.inspect.inspection import Inspection

_NOISE = 0.05
"""Parts whose times came out negative by so much of the whole are told of."""


def summary_tables(summary: RunSummary, width: int) -> list[Table]:
    """Returns the baseline beside the sliced model beside every file, with costs, accuracy and speed.

    One table, or several below each other where the terminal is narrower than it; no figure is ever broken.
    """
    target = summary.targets[0] if summary.targets else None
    rows = [(row, row.on(target) if target else None) for row in summary.rows]
    columns = {
        "params": [format.count(row.params) for row, _ in rows],
        "MACs": [format.count(row.macs) for row, _ in rows],
        "size": [format.size(row.size_bytes) for row, _ in rows],
        "top-1": [format.percent(row.top1) for row, _ in rows],
        "agrees": [format.percent(row.agreement) for row, _ in rows],
        **(_timing_columns([timing for _, timing in rows]) if target else {}),
        **_others(summary),
    }
    title = f"{summary.name}, timed on {target}" if target else summary.name
    return fitted([row.name for row, _ in rows], columns, width, title=title, end=("sliced",))


def _others(summary: RunSummary) -> dict[str, list[str]]:
    """Returns what every file takes on the further targets: its time, or instructions where there is no time."""
    columns = {}
    for target in summary.targets[1:]:
        timings = [row.on(target) for row in summary.rows]
        columns[f"on {target}"] = [_cost(timing) if timing else format.MISSING for timing in timings]
    return columns


def _cost(timing: Timing) -> str:
    if timing.emulated:
        return f"{format.count(timing.instructions.of('all'))} instr." if timing.instructions else format.MISSING
    return format.seconds_interval(timing.median_s)


def _timing_columns(timings: Sequence[Timing | None]) -> dict[str, list[str]]:
    def told(show: Callable[[Timing], str]) -> list[str]:
        return [show(timing) if timing else format.MISSING for timing in timings]

    return {
        "median [95 % CI]": told(lambda timing: format.seconds_interval(timing.median_s)),
        "p90": told(lambda timing: format.seconds(timing.p90_s.value if timing.p90_s else None)),
        "speed-up": told(lambda timing: format.times_interval(timing.speedup)),
        "memory": told(lambda timing: format.size(timing.peak_rss_bytes)),
        "load": told(lambda timing: format.seconds(timing.load_s)),
        "first run": told(lambda timing: format.seconds(timing.first_run_s)),
        "images/s": told(lambda timing: _throughput(timing.throughput)),
        "GFLOP/s": told(lambda timing: _gflops(timing.gflops_per_s)),
        "of peak": told(lambda timing: format.percent(timing.peak_share)),
        "energy": told(lambda timing: energy_text(timing.energy_tier, timing.joules_per_image)),
        "top-1 here": told(lambda timing: format.percent(timing.top1)),
    }


def _throughput(best: Throughput | None) -> str:
    return format.rate(best.median).removesuffix(" images/s") if best else format.MISSING


def _gflops(value: float | None) -> str:
    return format.gflops(value).removesuffix(" GFLOP/s")


def energy_text(tier: EnergyTier | None, joules: float | None) -> str:
    """Returns an energy with how it is known, which is never left out."""
    if tier is None:
        return format.MISSING
    return tier if joules is None else f"{format.joules(joules)} {tier}"


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
            format.count(artifact.params),
            format.count(artifact.macs),
            format.size(artifact.size_bytes),
            str(parity.images),
            format.error(parity.max_abs),
            format.decibels(parity.sqnr_db),
            format.percent(parity.top1_agreement),
            format.percent(parity.top1),
            format.percent(parity.reference_top1),
        )
    return table


def refused_lines(refused: Sequence[Artifact]) -> list[Text]:
    """Returns a line for each file that was not released: how close it came, and why it was refused."""
    lines = []
    for artifact in refused:
        parity = artifact.parity
        figures = (
            f"agrees {format.percent(parity.top1_agreement)} of {parity.images} images, "
            f"SQNR {format.decibels(parity.sqnr_db)}, by {artifact.recipe}"
        )
        lines.append(Text(f"REFUSED: {artifact.file} ({figures}): {artifact.refused or REFUSED_BEFORE}", "bold red"))
    return lines


@dataclass(frozen=True)
class BenchTable:
    """Measured files by all that was measured, with what failed and what must be known below; as wide as it may be."""

    result: BenchResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields what fits the console's width."""
        names, columns = [file.file for file in self.result.files], _bench_columns(self.result)
        yield from fitted(names, columns, options.max_width)
        if self.result.emulated:
            yield Text(f"{self.result.target} is emulated: no time, instructions of one run instead.")
        for failure in self.result.failures:
            yield Text(f"NOT MEASURED: {failure.file}: {failure.what}", "bold red")
        for note in self.result.notes:
            yield Text(f"Note: {note}", "yellow")
        for file in self.result.files:
            for note in file.notes:
                yield Text(f"{file.file}: {note}", "yellow")
        yield from map(Text, _reasons(self.result))


def bench_table(result: BenchResult) -> BenchTable:
    """Returns measured files with every figure that was taken of them, for a terminal of any width."""
    return BenchTable(result)


def _bench_columns(result: BenchResult) -> dict[str, list[str]]:
    def told(show: Callable[[FileResult], str]) -> list[str]:
        return [show(file) for file in result.files]

    def timed(show: Callable[[Sequence[float]], str]) -> list[str]:
        return [show(file.latency.values) if file.latency else format.MISSING for file in result.files]

    def started(show: Callable[[Startup], Sequence[float]]) -> list[str]:
        return [format.seconds(percentile(show(f.startup), 50)) if f.startup else format.MISSING for f in result.files]

    return {
        "precision": told(lambda file: file.precision or format.MISSING),
        "threads": told(lambda file: str(file.threads)),
        "runs": timed(lambda values: str(len(values))),
        "median [95 % CI]": timed(lambda values: format.seconds_interval(median_interval(values))),
        "p90 [95 % CI]": timed(lambda values: format.seconds_interval(p90_interval(values))),
        "p99": timed(lambda values: format.seconds(percentile(values, 99))),
        **instruction_columns(result.files),
        "peak memory": told(lambda file: format.size(file.memory.peak_rss_bytes)),
        "load": started(lambda startup: startup.load_s),
        "first run": started(lambda startup: startup.first_run_s),
        "images/s": told(lambda file: _throughput(file.best_throughput)),
        "batch, streams": told(lambda file: _arrangement(file.best_throughput)),
        "per image": told(lambda file: format.flop(file.flops)),
        "GFLOP/s": told(lambda file: _gflops(file.gflops_per_s)),
        "of peak": told(lambda file: _peak_share(result, file)),
        "energy": told(lambda file: energy_text(*known(file.energy))),
        "idle power": told(lambda file: format.watts(file.energy.idle_w if file.energy else None)),
        "CO2": told(lambda file: format.grams(file.energy.grams_co2_per_image if file.energy else None)),
        "top-1": told(lambda file: format.percent(file.accuracy.top1 if file.accuracy else None)),
        "images": told(lambda file: format.whole(file.accuracy.images if file.accuracy else None)),
    }


def instruction_columns(files: Sequence[FileResult | None]) -> dict[str, list[str]]:
    """Returns instructions of one run by heading, a cell for each file, missing where a file has none."""

    def told(show: Callable[[Instructions], str]) -> list[str]:
        return [show(file.instructions) if file and file.instructions else format.MISSING for file in files]

    return {
        "instructions": told(lambda own: format.count(own.of("all"))),
        "SIMD": told(lambda own: format.percent(own.of("simd") / own.of("all"))),
        "dot products": told(lambda own: format.count(own.of("dot"))),
    }


def known(energy: Energy | None) -> tuple[EnergyTier | None, float | None]:
    """Returns how an energy is known, and what an image draws, J."""
    return (energy.tier, energy.joules_per_image) if energy else (None, None)


def _arrangement(best: Throughput | None) -> str:
    return f"{best.batch}, {best.streams}" if best else format.MISSING


def _peak_share(result: BenchResult, file: FileResult) -> str:
    peak, reached = result.peak_of(file), file.gflops_per_s
    return format.percent(reached / peak.best) if peak and reached is not None else format.MISSING


def _reasons(result: BenchResult) -> list[str]:
    """Returns why figures are missing, and where energies come from, each once with its files."""
    said: dict[str, list[str]] = {}
    for file in result.files:
        energy = file.energy
        untold = file.memory.peak_rss_bytes is None and not result.emulated
        texts = [f"no peak memory, {file.memory.reason}" if untold else None]
        if energy is not None:
            unavailable = energy.tier == "unavailable"
            texts.append(
                f"energy unavailable, {energy.reason}" if unavailable else f"energy {energy.tier} by {energy.source}"
            )
            texts.append(f"no CO2, {energy.carbon_reason}" if energy.carbon_reason and not unavailable else None)
            texts.append(f"CO2 of the grid of {energy.country}" if energy.grams_per_kwh and energy.country else None)
        for text in filter(None, texts):
            said.setdefault(text.rstrip("."), []).append(file.file)
    every = len(result.files)
    return [f"{'All files' if len(own) == every else format.listed(own)}: {text}." for text, own in said.items()]


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
