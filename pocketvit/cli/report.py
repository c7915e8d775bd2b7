"""The command ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import print_json, say

from .common import Json
from .summary import print_summary, summary_body


def report(folder: Annotated[Path, Parameter(help="A run folder.")], /, *, as_json: Json = False) -> None:
    """Write report.html and report.md of a run, and print its table."""
    from device_bench.report.page import write_report
    from device_bench.report.summary import summarise

    written = write_report(folder)
    summary = summarise(folder)
    if as_json:
        files = {"files": [str(path) for path in written]}
        print_json("pocketvit.summary", {**files, **summary_body(summary)})
        return
    print_summary(summary)
    say(f"Written: {', '.join(map(str, written))}")
