"""Fills the template of a runtime and a language from the manifest of a file.

A line of a template that begins with ``?word`` is kept where the word holds of the file, and ``@WORD@`` stands for a
value. ``@PIXELS@`` stands for the part that turns a picture into the model's numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np

from runtime import Artifact, TensorSpec, UnsupportedTargetError, read_artifact

Language = Literal["python", "kotlin", "swift", "js"]

_MOST_NAMES = 20
"""So many names of classes stand in the program; more are read from the manifest."""

_RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}
_CUTS = {"center": "cut", "center_floor": "cut", "center_crop": "cut", "squash": "stretch", "stretch": "stretch"}
_INT_TYPES = {"python": ("int8", "uint8", "int16"), "kotlin": ("int8",), "swift": ("int8", "uint8", "int16"), "js": ()}
_PLACES = {"NHWC": "3 * i + c", "NCHW": "{size} * c + i"}


def snippet(file: Path, language: Language) -> str:
    """Returns a program in ``language`` that classifies a picture with a file, from the manifest of the file.

    Args:
        file: a ``.tflite`` or ``.onnx`` file with its manifest. One for apps is run by MediaPipe Tasks, other TFLite
            files by LiteRT, and ONNX files by ONNX Runtime.
        language: ``python``, ``kotlin`` for Android, ``swift`` for iOS, or ``js`` for browsers.

    Raises:
        ArtifactError: file or manifest is missing or damaged.
        UnsupportedTargetError: there is no program for such a file in this language.
    """
    artifact = read_artifact(file, verify=False)
    template = _template(artifact, language)
    words, values = _words(artifact), _values(artifact, language)
    lines = []
    for line in template.splitlines():
        asked, _, rest = line[1:].partition(" ") if line.startswith("?") else ("", "", line)
        if not asked or asked in words:
            lines.append(re.sub(r"@(\w+)@", lambda match: values[match[1]], rest).rstrip())
    return "\n".join(lines) + "\n"


def _template(artifact: Artifact, language: Language) -> str:
    """Returns the template for a file.

    Raises:
        UnsupportedTargetError: there is none.
    """
    runtime = "mediapipe" if artifact.app is not None else _RUNTIMES.get(artifact.format)
    if runtime is None:
        raise UnsupportedTargetError(
            f"There is no program for {artifact.format} files", expected=" or ".join(_RUNTIMES), got=artifact.file
        )
    if artifact.app is None and artifact.output_kind != "classes":
        raise UnsupportedTargetError(
            f"{artifact.file} answers with a {artifact.output_kind}", expected="classes", got=artifact.output_kind
        )
    if artifact.preprocessing.resize not in _CUTS:
        raise UnsupportedTargetError(
            f"{artifact.file} pads its pictures, and no program here does that",
            expected="a rule of cropping of " + ", ".join(_CUTS),
            got=artifact.preprocessing.resize,
        )
    integers = {spec.dtype for spec in (artifact.input, artifact.output)} - {"float32"}
    if artifact.app is None and (left := sorted(integers - set(_INT_TYPES[language]))):
        raise UnsupportedTargetError(
            f"The runtime of {runtime} for {language} takes no {left[0]} images",
            expected=" or ".join(("float32", *_INT_TYPES[language])),
            got=artifact.file,
            fix="Export with --app, or take another kind of file",
        )
    folder = files("pocketvit.snippets") / "templates"
    text = (folder / f"{runtime}.{language}.txt").read_text(encoding="utf-8")
    part = folder / f"pixels.{language}.part"
    return text.replace("@PIXELS@\n", part.read_text(encoding="utf-8") if part.is_file() else "")


def _words(artifact: Artifact) -> set[str]:
    """Returns the words that hold of a file."""
    few = len(artifact.class_names) <= _MOST_NAMES
    return {
        _CUTS[artifact.preprocessing.resize],
        "grey" if artifact.preprocessing.channels == 1 else "rgb",
        "names" if few else "no-names",
        "float-in" if artifact.input.dtype == "float32" else "int-in",
        "float-out" if artifact.output.dtype == "float32" else "int-out",
        "classes" if artifact.output_kind == "classes" else "vector",
    }


def _values(artifact: Artifact, language: Language) -> dict[str, str]:
    """Returns what stands for each word of a template."""
    spec, name = artifact.preprocessing, json.dumps(artifact.file, ensure_ascii=False)[1:-1]
    stem, _, end = name.rpartition(".")
    crop = 1.0 if spec.resize == "stretch" else spec.crop_pct
    return {
        "FILE": name,
        "DOES": "Classifies" if artifact.output_kind == "classes" else "Embeds",
        "STEM": stem,
        "END": end,
        "H": str(spec.height),
        "W": str(spec.width),
        "C": str(spec.channels),
        "MODE": "L" if spec.channels == 1 else "RGB",
        "CROP": f"{float(crop)!r}",
        "FILTER": spec.interpolation.upper(),
        "MEAN": _numbers(spec.mean, language),
        "STD": _numbers(spec.std, language),
        "NAMES": _names(artifact.class_names, language),
        "INPUT": artifact.input.name,
        "OUTPUT": artifact.output.name,
        "PLACE_C": _PLACES[artifact.input.layout].format(size=spec.height * spec.width),
        **_integers(artifact.input, "IN"),
        **_integers(artifact.output, "OUT"),
    }


def _integers(spec: TensorSpec, side: str) -> dict[str, str]:
    """Returns what stands for the scale, the zero point and the type of an integer tensor."""
    if spec.dtype == "float32":
        return {}
    limits = np.iinfo(spec.dtype)
    return {
        f"{side}_SCALE": repr(spec.scale),
        f"{side}_ZERO": str(spec.zero_point),
        f"{side}_TYPE": spec.dtype,
        f"{side}_LEAST": str(limits.min),
        f"{side}_MOST": str(limits.max),
        f"{side}_SWIFT": spec.dtype.title().replace("Uint", "UInt"),
    }


def _numbers(values: Sequence[float], language: Language) -> str:
    listed = ", ".join(f"{value!r}f" if language == "kotlin" else repr(value) for value in values)
    return f"[{listed}]" if language in ("python", "js") else listed


def _names(names: Sequence[str], language: Language) -> str:
    listed = json.dumps(list(names), ensure_ascii=False)
    if language == "kotlin":
        listed = listed.replace("$", "\\$")
    return listed if language in ("python", "js") else listed[1:-1]
