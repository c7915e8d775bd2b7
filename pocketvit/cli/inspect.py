"""The command ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pocketvit.output import fail, print_json
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
            help="With --against and --for: images to run, an .npz file with 'pictures' (uint8) or 'images' "
            "(preprocessed float32). By default those of the file's run; without any, --against takes random numbers, "
            "and --for does not check float16's range."
        ),
    ] = None,
    sort: Annotated[
        Literal["worst", "lost", "graph"] | None,
        Parameter(
            help="With --against: operators by least SQNR first, by what they lose, or all in the file's order; by "
            "default worst."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        Parameter(
            name="--for",
            help="Show instead what this engine refuses, computes wrongly or computes slowly, with the cure: cpu "
            "(LiteRT), gpu (LiteRT's GPU path) or static-int8 (NPU compilers). Exits with 1 when something is found.",
        ),
    ] = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Show the contents of a file: operators, precision, MACs, bytes, widths, delegate partitions, times.

    With --against, show where a quantised file loses accuracy: the signal-to-noise ratio of every operator's output.
    With --for, lint a .tflite file for an engine: ranks, operators, shapes and types, and the range of float16.
    The file may be damaged or hostile: another process opens it.
    """
    from export.inspect.inspection import compare_with_float, inspect_file, lint_file
    from pocketvit.cli.tables.inspection import inspection_tables
    from pocketvit.cli.tables.lint import lint_tables
    from pocketvit.cli.tables.operator_errors import operator_error_tables
    from pocketvit.console import stdout_console
    from pocketvit.progress import show_progress

    if engine is not None and (against is not None or sort is not None):
        raise DataError(
            "--for lints one file and compares it with none",
            got="--against" if against is not None else "--sort",
            fix="Leave out --for, or the other option",
        )
    if engine is not None:
        with show_progress() as progress:
            lint = lint_file(artifact, engine, images, progress=progress)
        if as_json:
            print_json("pocketvit.lint", {"clean": lint.clean, **encode(lint)})
        else:
            stdout_console().print(*lint_tables(lint), sep="\n")
        if not lint.clean:
            broken = sum(own.count for own in lint.findings)
            fail(f"{artifact.name} has {broken} finding{'s' * (broken > 1)} for {lint.title}.", 1)
        return
    if against is None:
        if images is not None:
            raise DataError("--images needs --against or --for", fix="Name the float file, or the engine")
        if sort is not None:
            raise DataError("--sort needs --against", fix="Name the float file with --against")
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
