"""The functions that inspect the files of each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.formats.torch import torch_model, torch_shapes
from export.graph.file_model import FileModel, Shape, onnx_model, tflite_model
from runtime import Progress, UnsupportedTargetError
from runtime.formats import format_of
from runtime.registry import Registry

from .op_times import Times, onnx_times, tflite_times
from .partitions import Partitions, find_partitions
from .shapes import onnx_shapes, tflite_shapes


@dataclass(frozen=True)
class Reader:
    """Functions that read the files of one format.

    Attributes:
        model: returns the operators and tensors of a file.
        shapes: returns the shapes of its weights and of its attention scores by name; Linears as ``(outputs, inputs)``.
        partitions: returns how an engine divides it between its kernels and a delegate; None where none does.
        no_partitions: why ``partitions`` is None.
        times: returns the seconds of its parts: ``times(path, threads, budget_s, progress)``; None where it cannot.
        no_times: why ``times`` is None.
        memory_bytes: address space that reading and running a file may take beyond a multiple of its size.
    """

    model: Callable[[Path], FileModel]
    shapes: Callable[[Path], Mapping[str, Shape]]
    partitions: Callable[[Path], Partitions] | None = None
    no_partitions: str = ""
    times: Callable[[Path, int, float, Progress], Times] | None = None
    no_times: str = ""
    memory_bytes: int = 4 * 2**30


ONNX = Reader(
    onnx_model,
    onnx_shapes,
    no_partitions="ONNX Runtime runs every operator in its own kernels",
    times=onnx_times,
)
TFLITE = Reader(tflite_model, tflite_shapes, find_partitions, times=tflite_times)
TORCH = Reader(
    torch_model,
    torch_shapes,
    no_partitions="torch runs every operator itself",
    no_times="torch files are timed as a whole, by a bench",
    memory_bytes=12 * 2**30,  # its libraries alone take most of 4 GiB
)

READERS: Registry[Reader] = Registry(
    "reader of model files",
    {name: f"export.inspect.readers:{name.upper()}" for name in ("onnx", "tflite", "torch")},
)
"""Readers by name of the format."""


def reader_of(path: Path) -> Reader:
    """Returns the reader of a model file, by its suffix.

    Raises:
        ArtifactError: no format has this suffix.
        UnsupportedTargetError: the format has no reader.
    """
    form = format_of(path)
    if form.name not in READERS:
        raise UnsupportedTargetError(
            f"The inside of {path.name} cannot be read",
            expected=f"a file of the format {', '.join(READERS)}",
            got=form.name,
            fix=f"Register a reader for {form.name} in export.inspect.readers.READERS",
        )
    return READERS[form.name]
