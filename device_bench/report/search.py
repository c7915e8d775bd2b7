"""The section of the report on the search: a picture, its words, and a table of rounds."""

from __future__ import annotations

from pathlib import Path

from device_bench import format
from device_bench.columns import Column
from device_bench.documents.search_log import SearchLog, SearchRound, TreeLog, actions, read_search
from device_bench.report.plots import search as search_plots
from device_bench.report.plots import tas as tas_plots
from device_bench.report.render.document import Drawing, FigurePanel, Paragraph, Section, blocks, table
from runtime import ArtifactError, ShapePlan, macs, params

from .pictures import drawing
from .summary import RunSummary

_ANSWERS = {"Top-1": "correctly", "Agreement": "as the whole model does,"}
"""How a share of the Search Set is answered: by its labels, or without labels by the whole model."""

_CHOSEN = "what the round chose, the highest log2(accuracy) − λ·log2(cost share)"  # noqa: RUF001


def search_section(summary: RunSummary, run: Path) -> tuple[Section | None, SearchLog | None]:
    """Returns the section on the search and the journal that it shows; a damaged journal becomes a note."""
    try:
        log, learnt = read_search(run), tas_plots.read_tas(run / "search" / "tas.jsonl")
    except ArtifactError as error:
        return Section("Search", (Paragraph(f"The search is not shown: {error}"),)), None
    metrics = summary.baseline.metrics
    share = "Top-1" if metrics is None or metrics.top1_reason is None else "Agreement"
    picture = _drawing(log, learnt, summary.baseline.plan, share)
    if log is None or picture is None:
        return None, log
    words = _words(log, share)
    if not isinstance(log, TreeLog):
        return Section("Search", (Paragraph(words), FigurePanel(picture, "wide"))), log
    one_path = any(own.one_path for own in log.rounds)
    note = (
        f"Every evaluated model: its cost, and the share of Search Set images that it answers {_ANSWERS[share]} right "
        "after the cut, before any recovery. A round starts from the recovered model of the one before, on images "
        "drawn anew."
    )
    ringed = "the end of the path that was followed" if one_path else _CHOSEN
    caption = (
        "Filled: every image was looked at. Hollow triangle: the evaluation was stopped once the model could not "
        "become the best, so its accuracy is at most what is drawn; of more than "
        f"{search_plots.FAINT} places in a round an even choice. Ringed: {ringed}. Line: the best accuracy for its "
        "cost, of the filled ones."
    )
    rounds = table("Round", _columns(log, share), log.rounds, lambda own: str(own.number), narrow="Round")
    parts = blocks(Paragraph(note), FigurePanel(picture, "wide", caption), rounds, Paragraph(words, "note after"))
    return Section("Search", parts), log


def _drawing(
    log: SearchLog | None, learnt: tas_plots.TasLog | None, baseline: ShapePlan | None, share: str
) -> Drawing | None:
    if log is None:
        return None
    if learnt is not None:
        names, draws = zip(*tas_plots.panels(learnt), strict=True)
        labels = [f"{name} over the steps of the search" for name in names]
        return drawing("search", "How widths and depth were learnt", draws, columns=2, size=(4.4, 2.6), labels=labels)
    if isinstance(log, TreeLog):
        return drawing("search", "Every model the search looked at", [search_plots.nodes(log, share)], size=(4.4, 3.2))
    count = {"macs": macs, "params": params}.get(log.unit)
    total = count(baseline) if count and baseline else None
    return drawing("search", "What the search gave up for what", [search_plots.losses(log, total)], size=(4.4, 2.6))


def _words(log: SearchLog, share: str) -> str:
    """Returns how to read the table of rounds, or the picture of steps."""
    if isinstance(log, TreeLog):
        return (
            f"Objective, {share.lower()}, cost and what was removed are those of the model the round chose, before its "
            f"recovery; cost is in {search_plots.unit_name(log.unit)}, of the baseline's. Removed: kind of group and "
            "block, counted from 1. Repeats: visits saved because another order of the same removals had led to the "
            "same model. Forward-equivalents: images run through a model, a gradient counted as three."
        )
    if log.explain:
        return log.explain
    if log.method == "milp":
        return (
            "All widths at once, by integer programming: the least importance lost within the budget. "
            "Drawn as if embed_dim were cut first and then block after block."
        )
    if log.method == "uniform":
        return (
            "Every width scaled alike, as near as multiples of 8 come, down to the budget. "
            "Drawn as if embed_dim were cut first and then block after block."
        )
    if log.method == "tas":
        return (
            "Widths and depth learnt by gradient: the odds of every candidate over the steps of the search, "
            "the likelier the darker, and what the most likely plan costs. The band is the tolerance. Kept are the "
            "most important units of the baseline at the widths found."
        )
    kinds = ", ".join(f"{kind} {format.whole(count)}" for kind, count in search_plots.kinds(log.steps).items())
    return f"Groups removed one after another, least importance per cost saved first: {kinds}."


def _columns(log: TreeLog, share: str) -> tuple[Column[SearchRound], ...]:
    """Returns the columns of the table of rounds; cost is a share of the baseline's."""
    return (
        Column("Nodes", lambda own: len(own.looks), format.whole),
        Column("Branched", lambda own: own.branched, format.whole),
        Column("Repeats", lambda own: own.repeats, format.whole),
        Column("Forward-equivalents", lambda own: own.work, format.whole),
        Column("Objective", lambda own: own.chosen.objective if own.chosen else None, format.signed),
        Column(
            f"{share}, Search Set", lambda own: own.chosen.correct / own.images if own.chosen else None, format.percent
        ),
        Column("Cost", lambda own: own.chosen.cost / log.total if own.chosen else None, format.percent),
        Column("Removed", lambda own: actions(own.chosen.path) if own.chosen else None, words=True),
        Column("Top-1, recovered", lambda own: own.recovered_top1, format.percent),
    )
