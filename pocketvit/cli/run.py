"""The command ``run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from device_bench.documents.measurement import LATENCY_S
from pocketvit.options import Raw, run_options, run_settings
from pocketvit.output import fail, print_json, say

from .common import RUNS, Country, Force, Json, Name, Resume, Runs, Seconds, with_options
from .summary import print_summary, summary_body


@with_options(run_options)
def run(
    given: Mapping[str, Raw],
    *,
    name: Name = None,
    runs: Runs = RUNS,
    resume: Resume = False,
    force: Force = False,
    bench_seconds: Seconds = LATENCY_S,
    energy: Annotated[bool, Parameter(help="Measure or estimate the energy of an image.")] = True,
    country: Country = None,
    as_json: Json = False,
) -> None:
    """Do it all: fine-tune, prune, recover, export, verify, bench, report."""
    from pocketvit.pipeline import run as pipeline
    from pocketvit.pipeline.benching import bench_settings
    from pocketvit.progress import show_progress

    settings = run_settings(given)
    root = runs / (name or settings.name)
    bench = bench_settings(bench_seconds, energy, country)
    with show_progress() as progress:
        summary = pipeline.run(settings, root, resume=resume, force=force, bench=bench, progress=progress)
    if as_json:
        print_json("pocketvit.summary", summary_body(summary))
    else:
        print_summary(summary)
        say(f"Files in {root / 'artifacts'}, report in {root / 'report.html'}")
    wrong = [f"Refused: {', '.join(artifact.file for artifact in summary.refused)}."] if summary.refused else []
    if summary.failures and not as_json:
        wrong.append(f"Not measured: {', '.join(sorted({failure.file for _, failure in summary.failures}))}.")
    if wrong:
        fail(" ".join(wrong), 1)
