"""Draws the report's pictures, each as an SVG file and as panels for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from device_bench import format
from device_bench.documents.op_times import OpTimes, grouped
from device_bench.documents.results import FileResult
from device_bench.report.plots import latency as latency_plots
from device_bench.report.plots import panels as plots
from device_bench.report.plots import times as times_plots
from device_bench.report.plots import tradeoff as tradeoff_plots
from device_bench.report.render.document import Drawing
from device_bench.timing.stats import percentile

from .summary import RunSummary
from .tradeoffs import Tradeoff

_WIDTHS = (
    ("num_heads", "Attention heads"),
    ("qk_dim", "Query-key width per head"),
    ("v_dim", "Value width per head"),
    ("mlp_dim", "MLP hidden units"),
)


def drawing(
    key: str,
    label: str,
    draws: Sequence[plots.Draw],
    *,
    columns: int = 1,
    size: tuple[float, float] = (3.6, 2.5),
    labels: Sequence[str] = (),
) -> Drawing:
    """Draws a picture.

    Args:
        key: part of the file's name, different for each picture.
        label: description of the picture.
        draws: the panels.
        columns: panels in a row, in the file.
        size: width and height of a panel, inches.
        labels: description of each panel, for screen readers; by default ``label``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = [plots.render(draw, size=size, salt=f"report-{key}-{index}") for index, draw in enumerate(draws)]
    words = labels or [label] * len(drawn)
    panels = tuple(plots.inline(panel, own) for panel, own in zip(drawn, words, strict=True))
    return Drawing(f"report-{key}.svg", label, plots.in_rows(drawn, min(columns, len(drawn))), panels)


def widths_drawing(summary: RunSummary) -> Drawing | None:
    """Draws the widths of every block, where a plan is known."""
    baseline, sliced = summary.baseline.plan, summary.sliced.plan
    if baseline is None and sliced is None:
        return None
    draws = [plots.widths(name, title, baseline, sliced) for name, title in _WIDTHS]
    return drawing("widths", "Widths of every block before and after", draws, columns=2)


def training_drawing(summary: RunSummary) -> Drawing | None:
    """Draws losses and accuracy by epoch, where a model was trained."""
    stages = [
        (name, model.metrics.epochs, is_sliced)
        for name, model, is_sliced in (("baseline", summary.baseline, False), ("sliced", summary.sliced, True))
        if model.metrics is not None and model.metrics.epochs
    ]
    if not stages:
        return None

    def panel(title: str, unit: str, field: str) -> plots.Draw | None:
        own = [stage for stage in stages if all(getattr(epoch, field) is not None for epoch in stage[1])]
        return (
            plots.curves(title, unit, [(name, epochs, field, is_sliced) for name, epochs, is_sliced in own])
            if own
            else None
        )

    vectors = any(epoch.held_out_cosine is not None for _, epochs, _ in stages for epoch in epochs)
    panels = [
        panel("Training loss", "relative error" if vectors else "nats", "train_loss"),
        panel("Held-out loss", "nats", "held_out_loss"),
        panel("Held-out top-1", "%", "held_out_top1"),
        panel("Held-out divergence", "nats", "held_out_divergence"),
        panel("Held-out agreement", "%", "held_out_agreement"),
        panel("Held-out cosine", "mean over images", "held_out_cosine"),
    ]
    draws = [draw for draw in panels if draw is not None]
    return drawing("training", "Training of the baseline and recovery of the sliced model", draws, columns=3)


def tradeoff_drawing(key: str, target: str, found: Sequence[Tradeoff], names: Mapping[str, str]) -> Drawing | None:
    """Draws accuracy over each cost, with the Pareto frontier."""
    if not found:
        return None
    draws = [tradeoff_plots.tradeoff(one, names) for one in found]
    labels = [
        f"Top-1 of each file over its {one.what}. Pareto frontier: "
        + format.listed([f"{p.file} ({format.percent(p.top1)}, {one.show(p.cost)})" for p in one.frontier])
        for one in found
    ]
    label = f"Accuracy over cost on {target}"
    return drawing(key, label, draws, columns=3, size=tradeoff_plots.SIZE_IN, labels=labels)


def latency_drawing(key: str, target: str, results: Sequence[FileResult]) -> Drawing | None:
    """Draws the latencies of all files on one scale."""
    series = [(result.file, result.latency.values, _is_baseline(result.file)) for result in results if result.latency]
    if not series:
        return None
    size = (4.4, 0.6 + 0.5 * len(series))
    return drawing(key, f"Latency of each file on {target}", [latency_plots.latencies(series)], size=size)


def shapes_drawing(key: str, target: str, results: Sequence[FileResult], names: Mapping[str, str]) -> Drawing | None:
    """Draws a histogram of each file's latencies, each on its own scale."""
    timed = [(result.file, result.latency.values) for result in results if result.latency]
    if not timed:
        return None
    draws = [latency_plots.shape(names[file], values, _is_baseline(file)) for file, values in timed]
    labels = [
        f"Latency of {file}: " + ", ".join(f"p{q} {format.seconds(percentile(values, q))}" for q in (50, 90, 99))
        for file, values in timed
    ]
    return drawing(key, f"Shape of each file's latency on {target}", draws, columns=3, size=(3.6, 1.6), labels=labels)


def times_drawing(found: Sequence[OpTimes], names: Mapping[str, str]) -> Drawing | None:
    """Draws where the time of each file goes."""
    if not found:
        return None
    kinds = [grouped(times) for times in found]
    order = {kind: place for place, kind in enumerate(kinds[0])} if found[0].by == "part" else {}
    labels, draws = [], []
    longest = max(max(own.values()) for own in kinds)
    for times, own in zip(found, kinds, strict=True):
        # parts stand in one order, so that files compare; operators differ from file to file
        rows = sorted(own.items(), key=lambda item: order.get(item[0], len(order)))
        shown = times_plots.longest_first(dict(rows) if times.by == "part" else dict(own))
        draws.append(times_plots.bars(names[times.file], shown, longest, _is_baseline(times.file)))
        labels.append(f"Time of {times.file}: " + ", ".join(f"{kind} {format.seconds(own)}" for kind, own in shown))
    key, what = ("parts", "part") if found[0].by == "part" else ("operators", "type of operator")
    size = (times_plots.WIDTH_IN, 0.5 + 0.24 * max(min(len(own), times_plots.MOST + 1) for own in kinds))
    return drawing(key, f"Time of each file by {what}", draws, columns=3, size=size, labels=labels)


def _is_baseline(file: str) -> bool:
    return file.startswith("baseline.")
