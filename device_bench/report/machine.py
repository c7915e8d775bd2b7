"""The state of the machine before and after a bench, and the source of every figure of the report."""

from __future__ import annotations

import dataclasses
from typing import Any

from device_bench import format
from device_bench.columns import Cell, Column
from device_bench.documents.results import BenchResult
from device_bench.documents.search_log import SearchLog, TreeLog
from device_bench.machine.state import MachineState
from device_bench.metrics import METRICS
from device_bench.metrics.base import Measured
from device_bench.report.render.document import Heading, Paragraph, Section, Table, TableRow, blocks, table
from runtime import Artifact

from .summary import RunSummary

_NAMES = {
    "board": "Board",
    "cpu_model": "Processor",
    "logical_cores": "Logical cores",
    "governor": "Governor",
    "clocks_hz": "Clock",
    "temperature_c": "Temperature",
    "load_average": "Load (1, 5, 15 min)",
    "os": "System",
    "architecture": "Instructions",
    "python": "Python",
    "versions": "",
    "affinity": "Cores it may use",
    "max_clocks_hz": "Highest clock",
    "clock_driver": "Clock driver",
    "throttle_count": "Times throttled",
    "throttled_bits": "Throttled, bits",
    "uptime_s": "Up for",
    "busy_s": "Core time of all processes",
    "own_s": "Core time of this process and its children",
    "steal_s": "Core time given to others by a hypervisor",
    "memory_bytes": "Memory",
    "virtualised": "Virtual machine",
}

_UNITS = {
    "hz": lambda value: format.hertz((value,)),
    "c": format.celsius,
    "w": format.watts,
    "j": format.joules,
    "s": format.seconds,
    "bytes": lambda value: format.size(round(value)),
    "percent": lambda value: f"{value:.1f} %",
    "share": format.percent,
}


def machine_rows(before: MachineState, after: MachineState) -> list[tuple[str, str, str]]:
    """Returns the name, the value before and the value after of each property of the machine."""
    early, late = _properties(before), _properties(after)
    names = [*early, *(name for name in late if name not in early)]
    return [(name, early.get(name, format.MISSING), late.get(name, format.MISSING)) for name in names]


def unknown_facts(before: MachineState, after: MachineState) -> list[str]:
    """Returns the properties that are unknown before and after."""
    names = [field.name for field in dataclasses.fields(before)]
    return [
        _NAMES.get(name) or _words(name)
        for name in names
        if all(_empty(getattr(state, name)) for state in (before, after))
    ]


def _properties(state: MachineState) -> dict[str, str]:
    rows: dict[str, str] = {}
    for field in dataclasses.fields(state):
        _add(rows, _NAMES.get(field.name, _words(field.name)), field.name, getattr(state, field.name))
    return rows


def _add(rows: dict[str, str], heading: str, name: str, value: Any) -> None:
    """Adds a row for a value, or one for each item of a value with several."""
    if _empty(value):
        return
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for key, own in sorted(value.items()):
            # packages keep their names, our own fields become words
            word = f"{heading}, {_words(key).lower()}" if heading else key
            _add(rows, word, key, own)
        return
    rows[heading] = _shown(name, value)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("clocks_hz"):
        return format.hertz(value)
    if name.endswith("_bits"):
        return f"{value:#x}"
    if isinstance(value, (tuple, list)):
        return " ".join(_shown(name, item) for item in value)
    unit = _UNITS.get(name.rpartition("_")[2]) if "_" in name else None
    if unit is not None and isinstance(value, (int, float)):
        return unit(value)
    if isinstance(value, float):
        return format.plain(value)
    return format.whole(value) if isinstance(value, int) else str(value)


def _words(name: str) -> str:
    """Returns a field's name as words, without its unit."""
    stem, _, unit = name.rpartition("_")
    words = (stem if stem and unit in _UNITS else name).replace("_", " ")
    return words[:1].upper() + words[1:]


def _empty(value: Any) -> bool:
    return value is None or value in ((), {}, "")


def machine_section(bench: BenchResult) -> Section:
    """Returns the state of the machine before and after a bench."""
    words = f"As it was just before and just after the measurement of {bench.created_utc}."
    missing = unknown_facts(bench.before, bench.after)
    if missing:
        words += f" Unknown: {', '.join(missing).lower()}."
    rows = tuple(
        TableRow(what, (Cell(early), Cell(late))) for what, early, late in machine_rows(bench.before, bench.after)
    )
    headings = (Heading("Before", words=True), Heading("After", words=True))
    table = Table("What", headings, rows, style="text machine", merged=True)
    return Section(f"Machine: {bench.target}", (Paragraph(words), table))


_SOURCES: tuple[Column[tuple[str, str, str]], ...] = (
    Column("File", lambda row: row[1], code=True),
    Column("How", lambda row: row[2]),
)
_FILES: tuple[Column[Artifact], ...] = (
    Column("sha256", lambda own: own.sha256, format.digest, code=True),
    Column("Source", lambda own: own.provenance.source),
    Column("Weights", lambda own: own.provenance.weights_sha256, format.digest, code=True),
    Column("Written with", lambda own: _versions(own)),
)


def sources_section(summary: RunSummary, search: SearchLog | None, times: bool) -> Section:
    """Returns where each figure of the report comes from.

    Args:
        summary: the run.
        search: the journal of its search.
        times: whether times of parts or operators are shown.
    """
    rows = sources(summary, search, times)
    return Section(
        "Where each figure comes from",
        blocks(
            table("Figure", _SOURCES, rows, lambda row: row[0], style="text sources"),
            table("Exported file", _FILES, summary.artifacts, lambda own: own.file, style="text"),
        ),
    )


def _versions(artifact: Artifact) -> str:
    own = artifact.provenance
    libraries = [f"{library} {number}" for library, number in sorted(own.versions.items())]
    return ", ".join([f"PocketViT {own.tool_version}", *libraries])


def sources(summary: RunSummary, search: SearchLog | None, times: bool) -> list[tuple[str, str, str]]:
    """Returns each kind of figure with its file and its origin."""
    rows = _model_sources(summary)
    if any(gain.table is not None for gain in summary.gains):
        rows.append(("Speed-up by the latency table", "search/latency.json", "computed from the widths of both models"))
    if search is not None:
        files = "search/iteration-*/journal.jsonl" if isinstance(search, TreeLog) else "search/journal.jsonl"
        rows.append(("Models that the search evaluated, and its removals", files, "recorded by the search"))
    if summary.artifacts:
        rows += [
            (
                "File size, plain and by gzip, top-1 at export, agreement, parity",
                "artifacts/*.json",
                "measured at export by running each file",
            ),
            ("File parameters and MACs", "artifacts/*.json", "computed from the plan in the manifest"),
        ]
    for name, bench in summary.benches.items():
        how = f"measured {bench.created_utc}, PocketViT {bench.tool_version}"
        rows.append((f"{_measured(bench)} on {bench.target}", f"bench/{name}", how))
    if times:
        rows.append(
            ("Time by part or operator", "bench/times/*.json", "measured file by file, separately from the latencies")
        )
    return rows


def _model_sources(summary: RunSummary) -> list[tuple[str, str, str]]:
    rows = []
    for name, model, stage in (
        ("Baseline", summary.baseline, "fine-tuning"),
        ("Sliced", summary.sliced, "slicing and recovery"),
    ):
        if model.plan:
            rows.append((f"{name} widths", f"{name.lower()}/plan.json", f"written by {stage}"))
        if model.metrics:
            rows.append(
                (
                    f"{name} parameters, MACs, size, top-1, curves",
                    f"{name.lower()}/metrics.json",
                    f"counted and evaluated in torch after {stage}",
                )
            )
    return rows


def _measured(bench: BenchResult) -> str:
    """Returns the metrics that a bench holds, in words."""
    files = [Measured(bench, file) for file in bench.files]
    words = [
        metric.title
        for metric in METRICS.values()
        if any(column.cell(own).known for column in metric.columns for own in files)
    ]
    text = ", ".join([*words, *(["what failed"] if bench.failures else []), "machine state"])
    return text[:1].upper() + text[1:]
