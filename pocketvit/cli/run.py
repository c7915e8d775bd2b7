"""The command ``run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from device_bench.documents.measurement import LATENCY_S
from pocketvit.options import Raw, run_options, settings_and_budgets
from pocketvit.output import fail, say

from .common import RUNS, Country, Force, Json, Name, Resume, Runs, Seconds, with_options
from .summary import print_summaries, print_summaries_json


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
    from pocketvit.pipeline.budgets import run_budgets
    from pocketvit.progress import show_progress

    settings, budgets = settings_and_budgets(given)
    root = runs / (name or settings.name)
    bench = bench_settings(bench_seconds, energy, country)
    with show_progress() as progress:
        how: dict[str, Any] = {"resume": resume, "force": force, "bench": bench, "progress": progress}
        if budgets:
            summaries = run_budgets(settings, budgets, root, **how)
        else:
            summaries = (pipeline.run(settings, root, **how),)
    if as_json:
        print_summaries_json(summaries)
    else:
        print_summaries(summaries)
        for place in [root.with_name(own.name) for own in summaries] if budgets else [root]:
            say(f"Files in {place / 'artifacts'}, report in {place / 'report.html'}")
    refused = [artifact.file for own in summaries for artifact in own.refused]
    unmeasured = sorted({failure.file for own in summaries for _, failure in own.failures})
    wrong = [f"Refused: {', '.join(refused)}."] if refused else []
    if unmeasured and not as_json:
        wrong.append(f"Not measured: {', '.join(unmeasured)}.")
    if wrong:
        fail(" ".join(wrong), 1)
