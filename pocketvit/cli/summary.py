"""The summary of a run as commands print it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketvit.output import say
from runtime import encode

if TYPE_CHECKING:
    from device_bench.report.summary import RunSummary


def summary_body(summary: RunSummary) -> dict[str, Any]:
    """Returns the body of the JSON document of a run."""
    made = {"run": summary.name, "made_with": summary.made_with}
    return {**made, "rows": encode(summary.rows), "refused": [encode(a) for a in summary.refused]}


def print_summary(summary: RunSummary) -> None:
    """Prints the tables of a run, and its notes to stderr."""
    from pocketvit.cli.tables.models import refused_lines
    from pocketvit.cli.tables.results import summary_tables
    from pocketvit.console import stdout_console

    console = stdout_console()
    console.print(*summary_tables(summary, console.width), sep="\n")
    for line in refused_lines(summary.refused):
        console.print(line)
    for note in summary.notes:
        say(f"Note: {note}")
