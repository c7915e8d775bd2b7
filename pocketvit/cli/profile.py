"""The command ``profile``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.options import Raw, run_options, run_settings
from pocketvit.output import print_json, say
from runtime import encode

from .common import Json, flag, with_options


@with_options(run_options)
def profile(
    given: Mapping[str, Raw],
    *,
    target: Annotated[str, Parameter(help="Where to measure: cpu.")] = "cpu",
    force: Annotated[bool, flag("Measure anew.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the time of every width, for budgets and costs such as latency=12ms@cpu.

    This takes minutes. A profile that was stopped goes on where it was. A run that needs a table measures it itself.
    """
    from device_bench import format
    from pocketvit.cli.tables.models import latency_tables
    from pocketvit.console import stdout_console
    from pocketvit.pipeline.job import prepare
    from pocketvit.pipeline.profiling import profile as measure
    from pocketvit.progress import show_progress

    settings = run_settings(given)
    with show_progress() as progress:
        plan = prepare(settings, progress).plan
        table, path = measure(
            plan,
            Path(settings.profiles),
            target=target,
            precision=settings.latency_precision,
            threads=settings.latency_threads,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json("pocketvit.latency", {"file": str(path), "table": encode(table)})
        return
    parts, checks = latency_tables(table)
    console = stdout_console()
    where = f"{table.target} ({table.cpu_model}), {table.engine} {table.engine_version}, {table.precision}"
    console.print(f"Predicted on {where}, {table.threads} thread(s):", parts, sep="\n")
    console.print("Random smaller models, predicted and measured:", checks, sep="\n")
    console.print(f"Median error {format.percent(table.median_error)}", *table.notes, sep="\n")
    say(f"Table in {path}")
