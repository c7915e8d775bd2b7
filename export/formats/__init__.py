"""The kinds of file that a model can be exported as, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from export.quantise.form import Form
from runtime import Artifact, DataError, Progress
from runtime.formats import FORMATS
from runtime.processors import PROCESSORS
from runtime.registry import Registry


class FormatRun(Protocol):
    """The result of running a file on images."""

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The outputs, ``(N, classes)``, in real units."""

    @property
    def arena_bytes(self) -> int | None:
        """The least arena that an interpreter for microcontrollers ran the file in."""


@dataclass(frozen=True)
class ExportKind:
    """A kind of file to export.

    A kind either has ``write``, or ``form`` and recipes of ``export.quantise.recipes.RECIPES`` that name it.

    Attributes:
        name: of the kind, a value of ``--formats``.
        summary: of the kind in one line, for ``--help``.
        format: name of its file format, of ``runtime.formats.FORMATS``.
        precision: of its files, as manifests have it.
        label: part of its file names between the model's name and the format's suffix; empty for none.
        recipe: name of the recipe in the manifest of a kind that has ``write``.
        write: writes a model to a path: ``write(model, path, **options)``.
        form: returns how a quantised graph becomes a file: ``form(**options)``.
        choice: which candidate is taken of those whose recipes suit the kind: the ``fastest`` that is accurate enough,
            or the ``most accurate``.
        options: names of fields of ``ExportSettings`` that are given to ``write`` or ``form`` and kept in the manifest.
        trainable: whether it can be trained under rounding.
        held_to: what its outputs must agree in with the float model's: the ``logits`` within a tolerance, the
            ``top-1`` class of most images, or nothing.
        run: runs a file, to verify it, in place of the engine of its format: ``run(path, images, progress)``, with
            preprocessed images ``(N, H, W, C)`` float32.
        check: raises an ``ArtifactError`` for a file that must not be released, given its manifest and the
            ``ExportSettings``.
        half_arithmetic: whether its files let engines compute in float16 where a simulation on calibration images
            allows it; ``write`` then takes ``arithmetic``.
        packages: names of the modules that it is written with, beyond those of its engine.
    """

    name: str
    summary: str
    format: str
    precision: str
    label: str = ""
    recipe: str = ""
    write: Callable[..., None] | None = None
    form: Callable[..., Form] | None = None
    choice: Literal["fastest", "most accurate"] = "most accurate"
    options: tuple[str, ...] = ()
    trainable: bool = False
    held_to: Literal["logits", "top-1", "nothing"] = "nothing"
    run: Callable[[Path, npt.NDArray[np.float32], Progress], FormatRun] | None = None
    check: Callable[[Artifact, Any], None] | None = None
    half_arithmetic: bool = False
    packages: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """End of its file names, such as ``.int8.tflite``."""
        return f".{self.label}{FORMATS[self.format].suffix}" if self.label else FORMATS[self.format].suffix

    def __post_init__(self) -> None:
        if (self.write is None) == (self.form is None):
            raise DataError(f"The kind of file {self.name!r} needs either a write or a form")


KINDS: Registry[ExportKind] = Registry(
    "kind of file",
    {
        "onnx": "export.formats.onnx:ONNX",
        "onnx-fp16": "export.formats.onnx:ONNX_FP16",
        "onnx-int8": "export.formats.onnx:ONNX_INT8",
        "torch": "export.formats.torch:TORCH",
        "fp32": "export.formats.tflite:FP32",
        "fp16": "export.formats.tflite:FP16",
        "int8": "export.formats.tflite:INT8",
        "int4": "export.formats.tflite:INT4",
        "int8-full": "export.formats.tflite:INT8_FULL",
        "int8-full-mixed": "export.formats.tflite:INT8_FULL_MIXED",
        "int8-full-16x8": "export.formats.tflite:INT8_FULL_16X8",
        "static-int8": "export.formats.static_int8:STATIC_INT8",
        "tflite-micro": "export.formats.micro:TFLITE_MICRO",
    },
    error=DataError,
)
"""Kinds of file by name."""

DEFAULT_KINDS = ("onnx", "onnx-int8", "fp32", "int8", "int8-full")
"""Names of the kinds that are exported unless others are asked for."""


def kinds_for(made_for: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of the kinds to export: ``kinds``, or in place of the usual ones those of an NPU's compilers.

    Args:
        made_for: a value of ``--for``.
        kinds: as asked for.
    """
    own = PROCESSORS[made_for].kinds if made_for in PROCESSORS else ()
    return own if own and kinds == DEFAULT_KINDS else kinds


def kind_of(artifact: Artifact) -> ExportKind | None:
    """Returns the kind of an exported file, by its format and precision; None for a file of no registered kind."""
    wanted = artifact.format, artifact.precision
    return next((kind for kind in KINDS.values() if (kind.format, kind.precision) == wanted), None)


def suits_apps(kind: ExportKind) -> bool:
    """Returns whether files for apps are made from files of a kind: TFLite files that LiteRT runs."""
    return kind.format == "tflite" and kind.run is None
