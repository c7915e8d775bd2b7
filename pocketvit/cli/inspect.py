"""The command ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pocketvit.output import print_json
from runtime import DataError, encode

from .common import Json, Threads


def inspect(
    artifact: Annotated[Path, Parameter(help="A .tflite or .onnx file, with or without its manifest.")],
    /,
    *,
    time: Annotated[bool, Parameter(help="Measure where its time goes.")] = True,
    against: Annotated[
        Path | None,
        Parameter(help="Show the error of every operator against this float .tflite file of the same model instead."),
    ] = None,
    images: Annotated[
        Path | None,
        Parameter(
            help="With --against: images to compare on, an .npz file with 'pictures' (uint8) or 'images' (preprocessed "
            "float32). By default those of the file's run, or random numbers."
        ),
    ] = None,
    sort: Annotated[
        Literal["worst", "lost", "graph"] | None,
        Parameter(
            help="With --against: operators by least SQNR first, by what they lose, or all in the file's order; by "
            "default worst."
        ),
    ] = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Show the contents of a file: operators, precision, MACs, bytes, widths, delegate partitions, times.

    With --against, show where a quantised file loses accuracy: the signal-to-noise ratio of every operator's output.
    The file may be damaged or hostile: another process opens it.
    """
    from export.inspect.inspection import compare_with_float, inspect_file
    from pocketvit.cli.tables.inspection import inspection_tables
    from pocketvit.cli.tables.operator_errors import operator_error_tables
    from pocketvit.console import stdout_console
    from pocketvit.progress import show_progress

    if against is None:
        for option, value in (("--images", images), ("--sort", sort)):
            if value is not None:
                raise DataError(f"{option} needs --against", fix="Name the float file with --against")
    else:
        with show_progress() as progress:
            errors = compare_with_float(artifact, against, images, threads=threads, progress=progress)
        if as_json:
            print_json("pocketvit.operator-errors", encode(errors))
        else:
            stdout_console().print(*operator_error_tables(errors, sort or "worst"), sep="\n")
        return
    with show_progress() as progress:
        found = inspect_file(artifact, time=time, threads=threads, progress=progress)
    if as_json:
        print_json("pocketvit.inspection", encode(found))
    else:
        stdout_console().print(*inspection_tables(found), sep="\n")
