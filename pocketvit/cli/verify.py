"""The command ``verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pocketvit.output import fail, print_json
from runtime import Progress, encode

from .common import Json

if TYPE_CHECKING:
    from export.inspect.check_file import Verification


def verify(
    artifact: Annotated[Path, Parameter(help="A .tflite or .onnx file with its manifest.")],
    /,
    *,
    against: Annotated[
        str | None,
        Parameter(name="--with", help="Compare with another engine: tensorflow, or gpu, which is LiteRT's GPU path."),
    ] = None,
    images: Annotated[
        int, Parameter(help="Images to run: random ones, and with gpu test images of the run if it has some.")
    ] = 16,
    as_json: Json = False,
) -> None:
    """Check a file against its manifest and by running it; exits with 1 when a check fails."""
    from export.inspect.check_file import verify_file
    from pocketvit.cli.tables.inspection import verification_tables
    from pocketvit.console import stdout_console
    from pocketvit.progress import show_progress

    with show_progress() as progress:
        if against == "gpu":
            found = _on_gpu(artifact, images, progress)
        else:
            found = verify_file(artifact, images=images, against=against, progress=progress)
    if as_json:
        print_json("pocketvit.verification", {"passed": found.passed, **encode(found)})
    else:
        stdout_console().print(*verification_tables(found), sep="\n")
    if not found.passed:
        fail(f"{artifact.name} does not pass: {', '.join(c.name for c in found.checks if not c.passed)}.", 1)


def _on_gpu(artifact: Path, images: int, progress: Progress) -> Verification:
    """Returns the checks of a file on the CPU and on LiteRT's GPU path."""
    from export.gpu.verify import check_runs_on_gpu, verified_on_gpu
    from export.inspect.check_file import verify_file
    from pocketvit.jobs.gpu_checking import graphics_driver

    check_runs_on_gpu(artifact)
    driver, adapter = graphics_driver(progress)
    found = verify_file(artifact, images=images, progress=progress)
    if not found.passed:  # damaged bytes are for the sandbox alone
        return found
    return verified_on_gpu(found, artifact, driver, adapter, progress)
