"""The report of a run: one page for people, self-contained, and the same in Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from runtime import ArtifactError, MissingExtraError, ShapePlan, macs, params, write_bytes

from . import format, plots, search_plots
from .machine import MachineState
from .search_log import SearchLog, TreeLog, actions, read_search
from .summary import REFERENCE, RunSummary, SummaryRow, summarise
from .verdict import verdict

_WIDTHS = (
    ("num_heads", "Attention heads"),
    ("qk_dim", "Query-key width per head"),
    ("v_dim", "Value width per head"),
    ("mlp_dim", "MLP hidden units"),
)

_CHOSEN = "what the round chose, the highest log2(accuracy) − λ·log2(cost share)"  # noqa: RUF001


@dataclass(frozen=True)
class Figure:
    """One picture of the report.

    Attributes:
        file: name it is written under, beside the Markdown.
        label: what it shows.
        svg: the whole of it, for the file.
        panels: the same in pieces, for the page.
    """

    file: str
    label: str
    svg: str
    panels: tuple[str, ...]


def write_report(run: Path) -> tuple[Path, Path]:
    """Writes ``report.md`` and ``report.html`` into a run folder, and the Markdown's pictures beside them.

    The same folder gives the same bytes.

    Args:
        run: the run folder.

    Returns:
        The paths of ``report.md`` and ``report.html``.

    Raises:
        RunFolderError: it is no run folder.
        ArtifactError: a document or file in it is damaged.
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: the report cannot be written.
    """
    summary = summarise(run)
    context = {**_context(summary), **_search(summary, run)}
    context["figures"]["search"] = context["search_figure"]
    html = _render("report.html.j2", context, autoescape=True)
    markdown = _render("report.md.j2", context, autoescape=False)
    for figure in context["figures"].values():
        if figure is not None:
            write_bytes(run / figure.file, figure.svg.encode())
    paths = run / "report.md", run / "report.html"
    for path, text in zip(paths, (markdown, html), strict=True):
        write_bytes(path, text.encode())
    return paths


def _render(name: str, context: dict[str, Any], *, autoescape: bool) -> str:
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "bench") from None
    environment = jinja2.Environment(
        autoescape=autoescape, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    environment.filters["unbroken"] = _unbroken
    source = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(source).render(context) + "\n"


def _cell(text: object) -> str:
    """Returns text that stays inside its Markdown table cell and means no markup."""
    escaped = str(text).replace("\\", "\\\\")
    for mark in "|`*_[]<>":
        escaped = escaped.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return escaped.replace("\n", " ")


def _unbroken(text: str) -> str:
    """Returns text in which no line ends between a number and its unit."""
    return re.sub(r"(?<=[\d×]) (?=[A-Za-zµ%°\[])", "\N{NO-BREAK SPACE}", text)  # noqa: RUF001 - the sign is meant


def _context(summary: RunSummary) -> dict[str, Any]:
    target = summary.targets[0] if summary.targets else None
    return {
        "summary": summary,
        "f": format,
        "verdict": verdict(summary),
        "tiles": _tiles(summary),
        "target": target,
        **_conditions(summary, target),
        "reference": REFERENCE,
        "notes": [note for note in summary.notes if note not in {gain.sentence for gain in summary.gains}],
        "predicted": any(gain.table is not None for gain in summary.gains),
        "short": [gain.sentence for gain in summary.gains if gain.falls_short],
        "figures": {
            "widths": _widths_figure(summary),
            "training": _training_figure(summary),
            "latency": _latency_figure(summary),
        },
        "embed": _embed_note(summary.baseline.plan, summary.sliced.plan),
        "calibrated": [artifact for artifact in summary.artifacts if artifact.calibration],
        "machines": [
            (name, bench, _machine_rows(bench.before, bench.after)) for name, bench in summary.benches.items()
        ],
    }


def _search(summary: RunSummary, run: Path) -> dict[str, Any]:
    """Returns what there is to show of the search; a damaged journal costs that and no more."""
    try:
        log, note = read_search(run), None
    except ArtifactError as error:
        log, note = None, f"The search is not shown: {error}"
    one_path = isinstance(log, TreeLog) and any(own.one_path for own in log.rounds)
    return {
        "sources": _sources(summary, log),
        "search_note": note,
        "search_figure": _search_figure(log, summary.baseline.plan),
        "search_words": _search_words(log),
        "rounds": _rounds(log) if isinstance(log, TreeLog) else [],
        "faint": search_plots.FAINT,
        "ringed": "the end of the path that was followed" if one_path else _CHOSEN,
    }


def _search_figure(log: SearchLog | None, baseline: ShapePlan | None) -> Figure | None:
    if log is None:
        return None
    if isinstance(log, TreeLog):
        return _figure("search", "Every model the search looked at", [search_plots.nodes(log)], 1, (4.4, 3.2))
    count = {"macs": macs, "params": params}.get(log.unit)
    total = count(baseline) if count and baseline else None
    return _figure("search", "What the search gave up for what", [search_plots.losses(log, total)], 1, (4.4, 2.6))


def _search_words(log: SearchLog | None) -> str:
    """Returns what a reader needs to know to read the table of rounds, or the picture of steps."""
    if isinstance(log, TreeLog):
        return (
            "Objective, top-1, cost and what was removed are those of the model the round chose, before its recovery; "
            f"cost is in {search_plots.unit_name(log.unit)}, of the baseline's. Removed: kind of group and block, "
            "counted from 1. Repeats: visits saved because another order of the same removals had led to the same "
            "model. Forward-equivalents: images run through a model, a gradient counted as three."
        )
    if log is None:
        return ""
    if log.method == "milp":
        return (
            "All widths at once, by integer programming: the least importance lost within the budget. "
            "Drawn as if embed_dim were cut first and then block after block."
        )
    kinds = ", ".join(f"{kind} {format.whole(count)}" for kind, count in search_plots.kinds(log.steps).items())
    return f"Groups removed one after another, least importance per cost saved first: {kinds}."


def _rounds(log: TreeLog) -> list[dict[str, str]]:
    """Returns the rows of the table of rounds, by heading."""
    rows = []
    for own in log.rounds:
        best = own.chosen
        rows.append(
            {
                "Round": str(own.number),
                "Nodes": format.whole(len(own.looks)),
                "Branched": format.whole(own.branched),
                "Repeats": format.whole(own.repeats),
                "Forward-equivalents": format.whole(own.work),
                "Objective": format.signed(best.objective if best else None),
                "Top-1, Search Set": format.percent(best.correct / own.images if best else None),
                "Cost": format.percent(best.cost / log.total if best else None),
                "Removed": actions(best.path) if best else format.MISSING,
                "Top-1, recovered": format.percent(own.recovered_top1),
            }
        )
    return rows


def _conditions(summary: RunSummary, target: str | None) -> dict[str, Any]:
    """Returns under what the table's latencies were measured: batch, threads, and whose warm-up never settled."""
    timings = [timing for row in summary.rows if target and (timing := row.on(target))]
    threads = sorted({timing.threads for timing in timings})
    unsteady = [
        result.file
        for bench in summary.benches.values()
        for result in bench.files
        if bench.target == target and result.latency and not result.latency.steady
    ]
    return {
        "batch": " and ".join(map(str, sorted({timing.batch for timing in timings}))) or "1",
        "threads": "1 thread" if threads == [1] else f"{' and '.join(map(str, threads))} threads",
        "unsteady": unsteady,
    }


def _tiles(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Returns the headline figures: caption, value, and what it is compared with."""
    before, after = summary.row("baseline"), summary.row("sliced")
    tiles = []
    if before and after:
        tiles = [
            ("Parameters", format.change(before.params, after.params), _arrow(before.params, after.params)),
            ("Multiply-accumulates", format.change(before.macs, after.macs), _arrow(before.macs, after.macs)),
            (
                "Top-1",
                format.points(before.top1, after.top1),
                f"{format.percent(before.top1)} → {format.percent(after.top1)}",
            ),
        ]
    fastest = _best_speedup(summary)
    if fastest:
        row, text = fastest
        tiles.append(("Best speed-up", text, row.name))
    return [tile for tile in tiles if tile[1] != format.MISSING]


def _arrow(before: int | None, after: int | None) -> str:
    return f"{format.count(before)} → {format.count(after)}"


def _best_speedup(summary: RunSummary) -> tuple[SummaryRow, str] | None:
    if not summary.targets:
        return None
    found = [
        (timing.speedup, row)
        for row in summary.rows
        if not row.name.startswith("baseline.") and (timing := row.on(summary.targets[0])) and timing.speedup
    ]
    if not found:
        return None
    ratio, row = max(found, key=lambda pair: pair[0].value)
    return row, format.times_interval(ratio).split(" ")[0]


def _embed_note(baseline: ShapePlan | None, sliced: ShapePlan | None) -> str | None:
    if baseline is None or sliced is None:
        return None
    depth = f"{len(baseline.blocks)} blocks, now {len(sliced.blocks)}"
    if len(baseline.blocks) == len(sliced.blocks):
        depth = f"{len(sliced.blocks)} blocks, as before"
    same = baseline.embed_dim == sliced.embed_dim
    stream = f"{sliced.embed_dim}, as before" if same else f"{baseline.embed_dim}, now {sliced.embed_dim}"
    return f"Width of the residual stream (embed_dim): {stream}. Depth: {depth}."


def _figure(
    key: str, label: str, draws: list[plots.Draw], columns: int, size: tuple[float, float] = (3.6, 2.5)
) -> Figure:
    svg = plots.render(draws, columns=columns, size=size, salt=f"report-{key}")
    panels = tuple(
        plots.inline(plots.render([draw], size=size, salt=f"report-{key}-{index}"), label)
        for index, draw in enumerate(draws)
    )
    return Figure(f"report-{key}.svg", label, svg, panels)


def _widths_figure(summary: RunSummary) -> Figure | None:
    baseline, sliced = summary.baseline.plan, summary.sliced.plan
    if baseline is None and sliced is None:
        return None
    draws = [plots.widths(name, title, baseline, sliced) for name, title in _WIDTHS]
    return _figure("widths", "Widths of every block before and after", draws, 2)


def _training_figure(summary: RunSummary) -> Figure | None:
    stages = [
        (name, model.metrics.epochs, is_sliced)
        for name, model, is_sliced in (("baseline", summary.baseline, False), ("sliced", summary.sliced, True))
        if model.metrics is not None and model.metrics.epochs
    ]
    if not stages:
        return None

    def panel(title: str, unit: str, field: str) -> plots.Draw:
        return plots.curves(title, unit, [(name, epochs, field, is_sliced) for name, epochs, is_sliced in stages])

    draws = [
        panel("Training loss", "nats", "train_loss"),
        panel("Held-out loss", "nats", "held_out_loss"),
        panel("Held-out top-1", "%", "held_out_top1"),
    ]
    return _figure("training", "Training of the baseline and recovery of the sliced model", draws, 3)


def _latency_figure(summary: RunSummary) -> Figure | None:
    if not summary.targets:
        return None
    bench = next(bench for bench in summary.benches.values() if bench.target == summary.targets[0])
    series = [
        (row.name, result.latency.values, row.name.startswith("baseline."))
        for row in summary.rows
        if row.on(bench.target) and (result := bench.of(row.name)) and result.latency
    ]
    if not series:
        return None
    label = f"Latency of each file on {bench.target}"
    return _figure("latency", label, [plots.latencies(series)], 1, (4.4, 0.6 + 0.5 * len(series)))


def _machine_rows(before: MachineState, after: MachineState) -> list[tuple[str, str, str]]:
    """Returns what, its value before, and its value after."""

    def described(state: MachineState) -> list[tuple[str, str]]:
        load = " ".join(format.plain(value) for value in state.load_average or ()) or format.MISSING
        return [
            ("Board", state.board or format.MISSING),
            ("Processor", state.cpu_model or format.MISSING),
            ("Logical cores", format.whole(state.logical_cores)),
            ("Governor", state.governor or format.MISSING),
            ("Clock", format.hertz(state.clocks_hz)),
            ("Temperature", format.celsius(state.temperature_c)),
            ("Load (1, 5, 15 min)", load),
            ("System", " ".join(filter(None, (state.os, state.architecture))) or format.MISSING),
            ("Python", state.python or format.MISSING),
            *((name, number) for name, number in sorted(state.versions.items())),
        ]

    late = dict(described(after))
    return [(name, value, late.get(name, format.MISSING)) for name, value in described(before)]


def _sources(summary: RunSummary, search: SearchLog | None) -> list[tuple[str, str, str]]:
    """Returns what, the file it was read from, and how it came about."""
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
    if any(gain.table is not None for gain in summary.gains):
        rows.append(("Speed-up by the latency table", "search/latency.json", "computed from the widths of both models"))
    if search is not None:
        files = "search/iteration-*/journal.jsonl" if isinstance(search, TreeLog) else "search/journal.jsonl"
        rows.append(("What the search looked at and removed", files, "recorded by the search"))
    if summary.artifacts:
        rows += [
            ("File size, top-1, agreement, parity", "artifacts/*.json", "measured at export by running each file"),
            ("File parameters and MACs", "artifacts/*.json", "computed from the plan in the manifest"),
        ]
    rows += [
        (
            f"Latency, speed-up, peak memory on {bench.target}",
            f"bench/{name}",
            f"measured {bench.created_utc}, PocketViT {bench.tool_version}",
        )
        for name, bench in summary.benches.items()
    ]
    return rows
