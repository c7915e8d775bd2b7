"""The command ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import print_json
from runtime import encode

from .common import Json, Threads


def inspect(
    artifact: Annotated[Path, Parameter(help="A .tflite or .onnx file, with or without its manifest.")],
    /,
    *,
    time: Annotated[bool, Parameter(help="Measure where its time goes.")] = True,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Show the contents of a file: operators, precision, MACs, bytes, widths, delegate partitions, times.

    The file may be damaged or hostile: another process opens it.
    """
    from export.inspect.inspection import inspect_file
    from pocketvit.cli.tables.inspection import inspection_tables
    from pocketvit.console import stdout_console
    from pocketvit.progress import show_progress

    with show_progress() as progress:
        found = inspect_file(artifact, time=time, threads=threads, progress=progress)
    if as_json:
        print_json("pocketvit.inspection", encode(found))
    else:
        stdout_console().print(*inspection_tables(found), sep="\n")
