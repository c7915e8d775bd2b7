"""The commands ``compare`` and ``gate``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from runtime import encode

from .output import fail, print_json, say

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Threads = Annotated[int, typer.Option(help="Threads of the engine.")]


def compare(
    base: Annotated[Path, typer.Argument(help="A .tflite or .onnx file, or a result that bench --json wrote.")],
    new: Annotated[Path, typer.Argument(help="Another of the same kind.")],
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option(help="After which to stop looking for a difference, seconds.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Put two files side by side, timed in turns; or two results, as far as they can be compared."""
    from pocketvit.cli.tables.gate import comparison_tables, result_tables
    from pocketvit.jobs import gating

    from .console import shown, stdout_console

    if base.suffix == ".json" or new.suffix == ".json":
        found = gating.compare_stored(base, new)
        if as_json:
            print_json("pocketvit.comparison", {"files": encode(found)})
            return
        stdout_console().print(*result_tables(found), sep="\n")
        return
    with shown() as progress:
        one, other, duel = gating.compare_files(base, new, threads=threads, seconds=seconds, progress=progress)
    if as_json:
        from device_bench.gate.judge import duel_json

        print_json("pocketvit.comparison", {"base": encode(one), "new": encode(other), "latency": duel_json(duel)})
        return
    stdout_console().print(*comparison_tables(one, other, duel), sep="\n")


def gate(
    files: Annotated[list[Path], typer.Argument(help="BASE NEW; or, with --baseline, the new files alone.")],
    baseline: Annotated[
        Path | None, typer.Option(help="Stored facts to hold files against; no time is compared.")
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Store the files' facts in --baseline and judge nothing.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="Limits: the table gate of this file; by default ./pocketvit.toml.")
    ] = None,
    max_slowdown: Annotated[float | None, typer.Option(help="Percent by which latency may grow.")] = None,
    seconds: Annotated[float | None, typer.Option(help="For timing; it stops as soon as the answer is sure.")] = None,
    target: Annotated[
        str | None, typer.Option(help="emu:pi4 or emu:pi5: count instructions there, and take no times.")
    ] = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Time the files against each other.")] = True,
    threads: Threads = 1,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write a Markdown summary here.")] = None,
    as_json: Json = False,
) -> None:
    """Stop a change that makes a model slower, larger or worse: exits with 1 when a limit is exceeded.

    Two files are timed in turns on this machine, and judged by a confidence interval of the ratio. Against a stored
    baseline only what does not wobble is compared: counts, sizes, partitions, memory, accuracy, agreement. With
    --target emu:pi4 the instructions that an emulated Cortex-A72 executes are, in place of time: they do not wobble.
    """
    from pocketvit.jobs import gating

    from .console import shown, stdout_console

    limits = gating.limits_of(config)
    given = {"max_slowdown_percent": max_slowdown, "seconds": seconds}
    limits = replace(limits, **{name: value for name, value in given.items() if value is not None})
    gating.check_usage(files, baseline, update_baseline)
    core = gating.core_of(target)
    with shown() as progress:
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
