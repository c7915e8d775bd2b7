"""The command ``verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import fail, print_json
from runtime import encode

from .common import Json


def verify(
    artifact: Annotated[Path, Parameter(help="A .tflite or .onnx file with its manifest.")],
    /,
    *,
    against: Annotated[str | None, Parameter(name="--with", help="Compare with another engine: tensorflow.")] = None,
    images: Annotated[int, Parameter(help="Random images to run.")] = 16,
    as_json: Json = False,
) -> None:
    """Check a file against its manifest and by running it; exits with 1 when a check fails."""
    from export.inspect.check_file import verify_file
    from pocketvit.cli.tables.inspection import verification_tables
    from pocketvit.console import stdout_console
    from pocketvit.progress import show_progress

    with show_progress() as progress:
        found = verify_file(artifact, images=images, against=against, progress=progress)
    if as_json:
        print_json("pocketvit.verification", {"passed": found.passed, **encode(found)})
    else:
        stdout_console().print(*verification_tables(found), sep="\n")
    if not found.passed:
        fail(f"{artifact.name} does not pass: {', '.join(c.name for c in found.checks if not c.passed)}.", 1)
