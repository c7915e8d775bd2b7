"""The command ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import print_json, say

from .common import Json, Threads, flag


def predict(
    artifact: Annotated[Path, Parameter(help="A .tflite, .onnx or .pt2 file with its manifest.")],
    /,
    *images: Annotated[Path, Parameter(required=True, help="Pictures, or folders of pictures.")],
    plot: Annotated[
        Path | None,
        Parameter(
            help="Draw the pictures into this file (.png): with predictions, with the nearest pictures, or with the "
            "principal components of their patches."
        ),
    ] = None,
    npz: Annotated[Path | None, Parameter(help="Write the outputs as arrays into this file (.npz).")] = None,
    label: Annotated[
        str | None, Parameter(help="The true class; by default the name of a picture's folder, if it is a class.")
    ] = None,
    skip_bad: Annotated[bool, flag("Leave out pictures that cannot be read.")] = False,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Classify pictures, with confidence, and with the loss where the true class is known; or compute vectors."""
    from pocketvit.console import stdout_console
    from pocketvit.jobs import predicting

    outcome = predicting.predict(artifact, images, label=label, threads=threads, skip_bad=skip_bad)
    for path, reason in outcome.skipped:
        say(f"Left out {path}: {reason}")
    if plot is not None:
        predicting.draw(outcome, plot)
    if npz is not None:
        predicting.write_arrays(outcome, npz)
    if as_json:
        skipped = [{"image": str(path), "reason": reason} for path, reason in outcome.skipped]
        body = {"artifact": artifact.name, "predictions": outcome.as_json(), "skipped": skipped}
        print_json("pocketvit.predictions", body)
    else:
        stdout_console().print(outcome.table())
