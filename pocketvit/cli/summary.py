"""The summary of a run as commands print it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pocketvit.output import print_json, say
from runtime import encode

if TYPE_CHECKING:
    from device_bench.report.summary import RunSummary


def summary_body(summary: RunSummary) -> dict[str, Any]:
    """Returns the body of the JSON document of a run."""
    made = {"run": summary.name, "made_with": summary.made_with}
    return {**made, "rows": encode(summary.rows), "refused": [encode(a) for a in summary.refused]}


def print_summary(summary: RunSummary) -> None:
    """Prints the tables of a run, and its notes to stderr."""
    print_summaries([summary])


def print_summaries(summaries: Sequence[RunSummary]) -> None:
    """Prints the tables of a run, or one table of several runs of the same model, and their notes to stderr."""
    from pocketvit.cli.tables.models import refused_lines
    from pocketvit.cli.tables.results import summary_tables, tables_of_runs
    from pocketvit.console import stdout_console

    console, several = stdout_console(), len(summaries) > 1
    tables = tables_of_runs(summaries, console.width) if several else summary_tables(summaries[0], console.width)
    console.print(*tables, sep="\n")
    for summary in summaries:
        for line in refused_lines(summary.refused):
            console.print(line)
    for note, names in _by_note(summaries).items():
        say(f"Note: {', '.join(names)}: {note}" if 0 < len(names) < len(summaries) else f"Note: {note}")


def print_summaries_json(summaries: Sequence[RunSummary]) -> None:
    """Prints one JSON document: that of a run, or that of several runs, which has the first kind's bodies in a list."""
    if len(summaries) == 1:
        print_json("pocketvit.summary", summary_body(summaries[0]))
    else:
        print_json("pocketvit.summaries", {"runs": [summary_body(own) for own in summaries]})


def _by_note(summaries: Sequence[RunSummary]) -> dict[str, list[str]]:
    """Returns the notes of runs, each once, with the names of the runs that have it."""
    found: dict[str, list[str]] = {}
    for own in summaries:
        for note in own.notes:
            found.setdefault(note, []).append(own.name)
    return found
