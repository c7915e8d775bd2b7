"""The interface of engines, the programs that execute model files, and their common checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runtime.errors import ArtifactError, DataError

EngineName = str
"""Name of an engine in ``runtime.engines.ENGINES``."""
EngineDevice = str
"""Where an engine computes: ``cpu``, ``cuda`` or ``tensorrt``, or another device that a registered engine serves."""
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind) for name, kind in (("float", "f4"), ("int8", "i1"), ("uint8", "u1"), ("int16", "i2"))
}


@dataclass(frozen=True)
class EngineKind:
    """A program that executes model files.

    Attributes:
        name: of the engine in documents and error texts, such as ``litert``.
        title: of the engine in tables, such as ``LiteRT``.
        open: loads a file, given its path, a number of threads and a device, into an ``Engine``.
        formats: names of the formats it reads, of ``runtime.formats.FORMATS``.
        module: name of the module to import to load it.
        package: name of the distribution that holds it, as pip knows it; empty where none does.
        extra: the extra of this project that installs it; empty where none does.
        devices: where it can compute.
        resident: whether it can keep tensors where it computes: ``open`` then returns a ``DeviceEngine``.
        portable: whether a bench may install its package on a board.
        same: other distributions that hold the same module.
        describe: returns further words on the loaded module, such as what it can compute with; None for none.
    """

    name: EngineName
    title: str
    open: Callable[[Path, int, EngineDevice], Any]
    formats: tuple[str, ...]
    module: str
    package: str = ""
    extra: str = ""
    devices: tuple[EngineDevice, ...] = ("cpu",)
    resident: bool = False
    portable: bool = False
    same: tuple[str, ...] = ()
    describe: Callable[[Any], str] | None = None

    @property
    def fix(self) -> str:
        """The command that installs it."""
        return f"pip install 'pocketvit[{self.extra}]'" if self.extra else f"pip install {self.package}"


class Engine(Protocol):
    """A loaded model file.

    Attributes:
        name: of the engine.
        version: of the engine.
        input_name: of the image tensor.
        input_shape: its dimensions; -1 is free (batch).
        input_dtype: its type.
        input_qparams: its (scale, zero point), or none for float.
        output_name: of the output tensor.
        output_shape: its dimensions.
        output_dtype: its type.
        output_qparams: its (scale, zero point), or none for float.
    """

    name: EngineName
    version: str
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: np.dtype[Any]
    input_qparams: tuple[float, int] | None
    output_name: str
    output_shape: tuple[int, ...]
    output_dtype: np.dtype[Any]
    output_qparams: tuple[float, int] | None

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the raw output ``(B, ...)`` for a raw input of the file's type and shape.

        Raises:
            DataError: the input is of another type or shape.
        """


class Event(Protocol):
    """A mark in a GPU's queue of work; the GPU records the time when it reaches it."""

    def record(self) -> None:
        """Queues the mark behind all work queued so far."""

    def elapsed_time(self, end: Any) -> float:
        """Returns the time from this mark to ``end``, ms; both must have been reached."""


@dataclass(frozen=True)
class Resident:
    """An inference whose input and output stay on the device of the engine.

    Attributes:
        run: starts one inference; it may return before a GPU has finished.
        wait: returns when all started work is finished.
        output: returns the raw output of the last inference ``(B, ...)``, copied to the host.
        event: returns a new mark for the queue of work; None where the engine has none.
    """

    run: Callable[[], None]
    wait: Callable[[], None]
    output: Callable[[], npt.NDArray[Any]]
    event: Callable[[], Event] | None = None


class DeviceEngine(Engine, Protocol):
    """An engine that can keep tensors on its device.

    Attributes:
        device: the device it computes on.
    """

    device: EngineDevice

    def resident(self, batch: npt.NDArray[Any]) -> Resident:
        """Copies ``batch`` to the device once, for any number of runs."""


def check_one(path: Path, inputs: int, outputs: int) -> None:
    """Checks that a file has one input and one output.

    Raises:
        ArtifactError: it has not.
    """
    if (inputs, outputs) != (1, 1):
        raise ArtifactError(
            f"{path} is not an image classifier",
            expected="one input and one output",
            got=f"{inputs} and {outputs}",
        )


def check_fit(engine: Engine, batch: npt.NDArray[Any], error: Exception | None = None) -> None:
    """Checks that ``batch`` fits the file; called only after a failed run, so that timed runs do not pay for it.

    Raises:
        DataError: the input is of another type or shape than the file's.
    """
    sizes = [size for size, wanted in zip(batch.shape, engine.input_shape, strict=False) if wanted in (size, -1)]
    if batch.dtype != engine.input_dtype or not len(sizes) == batch.ndim == len(engine.input_shape):
        raise DataError(
            "The input does not fit the model",
            expected=f"{engine.input_dtype} {engine.input_shape}",
            got=f"{batch.dtype} {batch.shape}",
        ) from error
