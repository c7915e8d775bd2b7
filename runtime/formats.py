"""Every kind of model file: its name, its suffix, and the engine that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import ArtifactError
from .registry import Registry


@dataclass(frozen=True)
class Format:
    """A kind of model file.

    Attributes:
        name: of the format in manifests, such as ``onnx``.
        title: of the format in texts, such as ``ONNX``.
        suffix: of its files, with the dot.
        engine: name of the engine that runs its files by default, of ``runtime.engines.ENGINES``.
        layout: order of the dimensions of an image in its files.
    """

    name: str
    title: str
    suffix: str
    engine: str
    layout: Literal["NHWC", "NCHW"]


ONNX = Format("onnx", "ONNX", ".onnx", "onnxruntime", "NCHW")
TFLITE = Format("tflite", "TFLite", ".tflite", "litert", "NHWC")
TORCH = Format("torch", "torch", ".pt2", "torch", "NCHW")

FORMATS: Registry[Format] = Registry(
    "file format",
    {"onnx": "runtime.formats:ONNX", "tflite": "runtime.formats:TFLITE", "torch": "runtime.formats:TORCH"},
    error=ArtifactError,
)
"""Formats of model files by name."""


def suffixes() -> tuple[str, ...]:
    """Returns the suffix of every format, with the dot."""
    return tuple(one.suffix for one in FORMATS.values())


def is_model_file(path: Path) -> bool:
    """Returns whether ``path`` has the suffix of a model file."""
    return path.suffix in suffixes()


def format_of(path: Path) -> Format:
    """Returns the format of a model file, by its suffix.

    Raises:
        ArtifactError: no format has this suffix.
    """
    for one in FORMATS.values():
        if one.suffix == path.suffix:
            return one
    raise ArtifactError(f"{path} is not a model file", expected=f"a file that ends in {', '.join(suffixes())}")


APP_SUFFIX = ".app.tflite"
"""End of the names of files for apps, which are made from other files."""


def model_files(folder: Path) -> list[Path]:
    """Returns the model files in ``folder`` without those for apps, sorted by name."""
    found = (path for suffix in suffixes() for path in folder.glob(f"*{suffix}"))
    return sorted(path for path in found if not path.name.endswith(APP_SUFFIX))


def app_file_of(file: Path) -> Path:
    """Returns the path of the file for apps that is made from a ``.tflite`` file."""
    return file.with_name(f"{file.stem}{APP_SUFFIX}")
