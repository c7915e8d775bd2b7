"""The command ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import print_json
from runtime import encode

from .common import Json, Threads


def compare(
    base: Annotated[Path, Parameter(help="A .tflite or .onnx file, or a result that bench --json wrote.")],
    new: Annotated[Path, Parameter(help="Another file of the same kind.")],
    /,
    *,
    threads: Threads = 1,
    seconds: Annotated[float, Parameter(help="Time after which to stop looking for a difference, seconds.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Compare two files, timed in turns; or two results, as far as they can be compared."""
    from pocketvit.cli.tables.gate import comparison_tables, result_tables
    from pocketvit.console import stdout_console
    from pocketvit.jobs import gating
    from pocketvit.progress import show_progress

    if base.suffix == ".json" or new.suffix == ".json":
        found = gating.compare_stored(base, new)
        if as_json:
            print_json("pocketvit.comparison", {"files": encode(found)})
            return
        stdout_console().print(*result_tables(found), sep="\n")
        return
    with show_progress() as progress:
        one, other, duel = gating.compare_files(base, new, threads=threads, seconds=seconds, progress=progress)
    if as_json:
        from device_bench.gate.judge import duel_json

        print_json("pocketvit.comparison", {"base": encode(one), "new": encode(other), "latency": duel_json(duel)})
        return
    stdout_console().print(*comparison_tables(one, other, duel), sep="\n")
