"""The command ``snippet``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import print_text
from pocketvit.snippets.render import Language


def snippet(
    artifact: Annotated[Path, Parameter(help="A .tflite or .onnx file with its manifest.")],
    /,
    *,
    lang: Annotated[
        Language, Parameter(help="Language of the program: python, kotlin (Android), swift (iOS) or js (browsers).")
    ] = "python",
) -> None:
    """Print a short program that classifies a picture with a file, from its manifest.

    A file for apps is used by MediaPipe Tasks, another .tflite file by LiteRT, and an .onnx file by ONNX Runtime.
    """
    from pocketvit.snippets import render

    print_text(render.snippet(artifact, lang))
