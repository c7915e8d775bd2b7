"""The command ``gate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import fail, print_json, say

from .common import Json, Threads, flag


def gate(
    *files: Annotated[Path, Parameter(required=True, help="BASE NEW; or, with --baseline, the new files alone.")],
    baseline: Annotated[
        Path | None, Parameter(help="Stored facts to compare the files with; no time is compared.")
    ] = None,
    update_baseline: Annotated[bool, flag("Store the files' facts in --baseline and judge nothing.")] = False,
    config: Annotated[
        Path | None, Parameter(help="File with the limits in its table [gate]; by default ./pocketvit.toml.")
    ] = None,
    max_slowdown: Annotated[float | None, Parameter(help="Percent by which latency may grow.")] = None,
    seconds: Annotated[
        float | None, Parameter(help="Most seconds of timing; it stops earlier when the answer is certain.")
    ] = None,
    target: Annotated[
        str | None, Parameter(help="emu:pi4 or emu:pi5: count instructions there, and take no times.")
    ] = None,
    time: Annotated[bool, Parameter(help="Time the files against each other.")] = True,
    threads: Threads = 1,
    junit_file: Annotated[Path | None, Parameter(name="--junit", help="Write JUnit XML into this file.")] = None,
    markdown_file: Annotated[
        Path | None, Parameter(name="--markdown", help="Write a Markdown summary into this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Stop a change that makes a model slower, larger or worse: exits with 1 when a limit is exceeded.

    Two files are timed in turns on this machine and judged by a confidence interval of the ratio. Against a stored
    baseline, only facts that do not vary from run to run are compared: counts, sizes, partitions, memory, accuracy,
    agreement. With --target emu:pi4, the instructions that an emulated Cortex-A72 executes replace the times; they do
    not vary either.
    """
    from pocketvit.console import stdout_console
    from pocketvit.jobs import gating
    from pocketvit.progress import show_progress

    limits = gating.limits_of(config)
    given = {"max_slowdown_percent": max_slowdown, "seconds": seconds}
    limits = replace(limits, **{name: value for name, value in given.items() if value is not None})
    gating.check_usage(files, baseline, update_baseline)
    core = gating.core_of(target)
    with show_progress() as progress:
        if baseline is not None and update_baseline:
            gating.update_baseline(baseline, files, threads=threads, core=core, progress=progress)
            say(f"Stored in {baseline}: {', '.join(file.name for file in files)}")
            return
        if baseline is not None:
            found = gating.gate_stored(baseline, files, limits, threads=threads, core=core, progress=progress)
        else:
            base, new = files
            found = (gating.gate_files(base, new, limits, threads=threads, timed=time, core=core, progress=progress),)
    gating.write_gates(found, junit_file, markdown_file)
    if as_json:
        from device_bench.gate.judge import gate_json

        print_json("pocketvit.gate", gate_json(found))
    else:
        from pocketvit.cli.tables.gate import gate_tables

        stdout_console().print(*gate_tables(found), sep="\n")
    failed = [
        f"{one.new}: {', '.join(c.metric for c in one.checks if c.passed is False)}" for one in found if not one.passed
    ]
    if failed:
        fail(f"The gate is closed for {'; '.join(failed)}.", 1)
