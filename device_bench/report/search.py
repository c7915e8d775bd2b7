"""What the report shows of the search: a picture, its words, and a table of rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from device_bench import format
from device_bench.documents.search_log import SearchLog, TreeLog, actions, read_search
from device_bench.report.plots import search as search_plots
from device_bench.report.plots import tas as tas_plots
from runtime import ArtifactError, ShapePlan, macs, params

from .pictures import Figure, figure
from .summary import RunSummary

_CHOSEN = "what the round chose, the highest log2(accuracy) − λ·log2(cost share)"  # noqa: RUF001


def search_context(summary: RunSummary, run: Path) -> dict[str, Any]:
    """Returns what there is to show of the search; a damaged journal costs that and no more."""
    try:
        log, learnt, note = read_search(run), tas_plots.read_tas(run / "search" / "tas.jsonl"), None
    except ArtifactError as error:
        log, learnt, note = None, None, f"The search is not shown: {error}"
    one_path = isinstance(log, TreeLog) and any(own.one_path for own in log.rounds)
    return {
        "search_log": log,
        "search_note": note,
        "search_figure": _search_figure(log, learnt, summary.baseline.plan),
        "search_words": _search_words(log),
        "rounds": _rounds(log) if isinstance(log, TreeLog) else [],
        "faint": search_plots.FAINT,
        "ringed": "the end of the path that was followed" if one_path else _CHOSEN,
    }


def _search_figure(log: SearchLog | None, learnt: tas_plots.TasLog | None, baseline: ShapePlan | None) -> Figure | None:
    if log is None:
        return None
    if learnt is not None:
        names, draws = zip(*tas_plots.panels(learnt), strict=True)
        told = [f"{name} over the steps of the search" for name in names]
        return figure("search", "How widths and depth were learnt", draws, columns=2, size=(4.4, 2.6), told=told)
    if isinstance(log, TreeLog):
        return figure("search", "Every model the search looked at", [search_plots.nodes(log)], size=(4.4, 3.2))
    count = {"macs": macs, "params": params}.get(log.unit)
    total = count(baseline) if count and baseline else None
    return figure("search", "What the search gave up for what", [search_plots.losses(log, total)], size=(4.4, 2.6))


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
