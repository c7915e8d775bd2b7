"""The report of a run: one page for people, self-contained, and the same in Markdown."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from device_bench import format
from device_bench.documents.op_times import OpTimes, read_times
from runtime import ArtifactError, MissingExtraError, ShapePlan, write_bytes

from .machine import machine_rows, sources, untold
from .overview import overview
from .pictures import times_figure, training_figure, widths_figure
from .search import search_context
from .summary import REFERENCE, REFUSED_BEFORE, RunSummary, SummaryRow, summarise
from .targets import target_parts
from .tradeoffs import short_names
from .verdict import verdict
from .zeros import zeros_part

_NOISE = 0.05
"""Parts whose times came out negative by so much of the whole are told of."""


def write_report(run: Path | str) -> tuple[Path, Path]:
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
    run = Path(run)
    summary = summarise(run)
    plain, escaped = _environment(autoescape=False), _environment(autoescape=True)
    context = _context(summary, run)
    markdown = _render(plain, "report.md.j2", context)
    html = _render(escaped, "report.html.j2", context)
    drawn = [*context["figures"].values(), *(own for part in context["parts"] for own in part.figures.values())]
    for figure in drawn:
        if figure is not None:
            write_bytes(run / figure.file, figure.svg.encode())
    paths = run / "report.md", run / "report.html"
    for path, text in zip(paths, (markdown, html), strict=True):
        write_bytes(path, text.encode())
    return paths


def _environment(*, autoescape: bool) -> Any:
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "bench") from None
    environment = jinja2.Environment(
        autoescape=autoescape, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    environment.filters["unbroken"] = _unbroken
    return environment


def _render(environment: Any, name: str, context: dict[str, Any]) -> str:
    source = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return str(environment.from_string(source).render(context)) + "\n"


def _cell(text: object) -> str:
    """Returns text that stays inside its Markdown table cell and means no markup."""
    escaped = str(text).replace("\\", "\\\\")
    for mark in "|`*_[]<>":
        escaped = escaped.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return escaped.replace("\n", " ")


def _unbroken(text: str) -> str:
    """Returns text in which no line ends between a number and its unit."""
    return re.sub(r"(?<=[\d×]) (?=[A-Za-zµ%°\[])", "\N{NO-BREAK SPACE}", text)  # noqa: RUF001 - the sign is meant


def _context(summary: RunSummary, run: Path) -> dict[str, Any]:
    parts = target_parts(summary)
    # beside the models' figures stand times; counts have a table of their own
    first = parts[0] if parts and not parts[0].emulated else None
    search = search_context(summary, run)
    times, times_notes = _times(summary, run)
    return {
        **search,
        "summary": summary,
        "f": format,
        "verdict": verdict(summary),
        "tiles": _tiles(summary),
        "parts": parts,
        "overview": overview(summary),
        "first": first,
        "others": parts[1:] if first else parts,
        "reference": REFERENCE,
        "refused_before": REFUSED_BEFORE,
        "notes": [note for note in summary.notes if note not in {gain.sentence for gain in summary.gains}],
        "predicted": any(gain.table is not None for gain in summary.gains),
        "short": [gain.sentence for gain in summary.gains if gain.falls_short],
        "figures": {
            "search": search["search_figure"],
            "widths": widths_figure(summary),
            "training": training_figure(summary),
            **_times_figures(times),
        },
        "zeros": zeros_part(summary, run),
        "times": times,
        "times_notes": times_notes,
        "times_how": _times_how(times),
        "embed": _embed_note(summary.baseline.plan, summary.sliced.plan),
        "calibrated": [artifact for artifact in summary.artifacts if artifact.calibration],
        "machines": [
            (bench, machine_rows(bench.before, bench.after), untold(bench.before, bench.after))
            for bench in summary.benches.values()
        ],
        "sources": sources(summary, search["search_log"], [own.file for own in times]),
    }


def _times(summary: RunSummary, run: Path) -> tuple[list[OpTimes], list[str]]:
    """Returns where the time of each file goes, and what is not shown; a damaged document costs its file alone."""
    found: dict[str, OpTimes] = {}
    notes = []
    digests = {artifact.file: artifact.sha256 for artifact in summary.artifacts}
    for path in sorted((run / "bench" / "times").glob("*.json")):
        try:
            own = read_times(path)
        except ArtifactError as error:
            notes.append(f"Not shown: {error}")
            continue
        if own.file not in digests:
            continue
        if own.sha256 != digests[own.file]:
            notes.append(f"Not shown: bench/times/{path.name} is of an older {own.file}; time it again.")
            continue
        found[own.file] = own
        if own.noise_s > _NOISE * own.whole_s:
            below = format.seconds(own.noise_s)
            notes.append(f"{own.file} was timed on a busy machine: parts came out up to {below} below nothing.")
    return [found[file] for file in digests if file in found], notes


def _times_how(times: list[OpTimes]) -> list[tuple[str, list[str]]]:
    """Returns each way of measuring with the files that were measured so."""
    said: dict[str, list[str]] = {}
    for own in times:
        said.setdefault(f"{own.how}, {format.plural(own.threads, 'thread')}", []).append(own.file)
    return list(said.items())


def _times_figures(times: list[OpTimes]) -> dict[str, Any]:
    names = short_names([own.file for own in times])
    return {
        key: times_figure([own for own in times if own.by == by], names)
        for key, by in (("parts", "part"), ("operators", "op type"))
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
    return [tile for tile in [*tiles, *_energy_tile(summary)] if tile[1] != format.MISSING]


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


def _energy_tile(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Returns the least energy of an image beside that of the baseline's file, when both are known in one way."""
    if not summary.targets:
        return []
    timed = [(row, timing) for row in summary.rows if (timing := row.on(summary.targets[0]))]
    known = [(row, t, t.joules_per_image) for row, t in timed if t.joules_per_image is not None]
    reference = next(((t, joules) for row, t, joules in known if row.name == REFERENCE), None)
    own = [one for one in known if not one[0].name.startswith("baseline.")]
    if reference is None or not own:
        return []
    row, timing, joules = min(own, key=lambda one: one[2])
    if timing.energy_tier != reference[0].energy_tier:
        return []
    values = f"{format.joules(reference[1])} → {format.joules(joules)}"
    caption = f"Energy per image, {timing.energy_tier}"
    return [(caption, format.change(reference[1], joules), f"{values}, {row.name}")]


def _embed_note(baseline: ShapePlan | None, sliced: ShapePlan | None) -> str | None:
    if baseline is None or sliced is None:
        return None
    depth = f"{len(baseline.blocks)} blocks, now {len(sliced.blocks)}"
    if len(baseline.blocks) == len(sliced.blocks):
        depth = f"{len(sliced.blocks)} blocks, as before"
    same = baseline.embed_dim == sliced.embed_dim
    stream = f"{sliced.embed_dim}, as before" if same else f"{baseline.embed_dim}, now {sliced.embed_dim}"
    return f"Width of the residual stream (embed_dim): {stream}. Depth: {depth}."
