"""Files for microcontrollers, with the operators of TensorFlow Lite Micro, run in its interpreter on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.ir import LINEAR, OP_KINDS, Graph, Op
from export.quantise.form import Form
from runtime import Artifact, ArtifactError, DataError, Progress, UnsupportedTargetError, silent
from runtime.formats import TFLITE
from runtime.worker.parent import SILENCE_S, Worker, WorkerError, python_module

from .micro_limits import DEFAULT_LIMITS, MicroLimits
from .tflite import INT8_FULL, tflite_form

MICRO_KINDS = tuple(kind for kind in OP_KINDS if kind not in ("gelu", "tanh"))
"""Operators that TensorFlow Lite Micro computes in int8, those of a stem in float32, as the other engines do. It has no
GELU, and its TANH always writes steps of 1/128."""

GELU_SLOPE = 1.702
"""GELU is x * sigmoid(GELU_SLOPE * x), off by at most 0.0204 (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2)."""

_COMMUTING = ("mean", "reshape", "transpose", "slice")
_COMMAND = python_module("export.formats.micro_child")
_FIX = "The file is damaged or was not exported for microcontrollers: export it again"


@dataclass(frozen=True)
class MicroRun:
    """The outputs of TensorFlow Lite Micro, and the memory it took.

    Attributes:
        logits: ``(N, classes)`` float32, in real units.
        arena_bytes: the least arena in which the file loads and runs here, a multiple of 16. Pointers on this machine
            are twice as long as a microcontroller's, so there it is somewhat less.
        file_bytes: of the file.
        version: of the interpreter.
    """

    logits: npt.NDArray[np.float32]
    arena_bytes: int
    file_bytes: int
    version: str


def micro_graph(graph: Graph) -> Graph:
    """Returns ``graph`` with the operators of TensorFlow Lite Micro alone, to be quantised in its place.

    GELU becomes x * sigmoid(``GELU_SLOPE`` * x). The slope goes into the Linear before it and its inverse into the
    Linear behind it, so that no operator is spent on it and no integer is rounded once more; where something else
    reads the one or comes between, a product with a constant computes it.

    Raises:
        UnsupportedTargetError: another operator that TensorFlow Lite Micro lacks.
    """
    lacking = sorted({op.kind for op in graph.ops} - {*MICRO_KINDS, "gelu"})
    if lacking:
        raise UnsupportedTargetError(
            "TensorFlow Lite Micro cannot compute this model",
            expected=f"operators among {', '.join(MICRO_KINDS)}, gelu",
            got=", ".join(lacking),
            fix="Choose a model with another activation",
        )
    return _Rewriter(graph).build()


class _Rewriter:
    """Rewrites the operators, and scales the constants that take a slope."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants, self.shapes = dict(graph.constants), dict(graph.shapes)
        self.writers = {op.output: op for op in graph.ops}
        self.readers: dict[str, list[Op]] = {}
        for op in graph.ops:
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)
        self.ops: list[Op] = []

    def build(self) -> Graph:
        for op in self.graph.ops:
            if op.kind == "gelu":
                self.gelu(op)
            else:
                self.ops.append(op)
        return replace(self.graph, ops=tuple(self.ops), constants=self.constants, shapes=self.shapes)

    def gelu(self, op: Op) -> None:
        (x,), gate = op.inputs, f"{op.output}.logistic"
        before, behind = self.writers.get(x), self.linears_behind(op.output)
        inside, slope = x, GELU_SLOPE
        if before is not None and behind is not None and self.folds(before):
            for name in before.inputs[1:]:
                self.constants[name] = self.constants[name] * slope
            for linear in behind:
                self.constants[linear.inputs[1]] = self.constants[linear.inputs[1]] / slope
        else:
            factor, inside = f"{op.output}.slope", f"{op.output}.inside"
            self.constants[factor] = np.full((1,) * len(self.shapes[x]), slope)
            self.shapes[factor], self.shapes[inside] = self.constants[factor].shape, self.shapes[x]
            self.ops.append(Op("mul", (x, factor), inside))
        self.shapes[gate] = self.shapes[x]
        self.ops += [Op("logistic", (inside,), gate), Op("mul", (x, gate), op.output)]

    def folds(self, before: Op) -> bool:
        """Returns whether ``before`` is a Linear whose output only one GELU reads."""
        alone = len(self.readers[before.output]) == 1 and before.output != self.graph.output
        return alone and before.kind in LINEAR and before.options.get("act", "none") == "none" and self.owned(before)

    def owned(self, linear: Op) -> bool:
        return all(len(self.readers[name]) == 1 for name in linear.inputs[1:])

    def linears_behind(self, name: str) -> list[Op] | None:
        """Returns the Linears that read ``name`` through operators that commute with a factor; None if others do."""
        if name == self.graph.output:
            return None
        found: list[Op] = []
        for reader in self.readers.get(name, []):
            if reader.kind in _COMMUTING:
                further = self.linears_behind(reader.output)
            else:
                further = [reader] if reader.kind in LINEAR and self.owned(reader) else None
            if further is None:
                return None
            found += further
        return found


def check_micro(file: str, file_bytes: int, arena_bytes: int, limits: MicroLimits = DEFAULT_LIMITS) -> None:
    """Checks that a file fits a microcontroller.

    Args:
        file: its name, for the error text.
        file_bytes: its size.
        arena_bytes: of its ``MicroRun``.
        limits: what there is room for.

    Raises:
        ArtifactError: the file or its arena is too big.
    """
    fixes = []
    if file_bytes > limits.flash_bytes:
        fixes.append("prune to a smaller budget of params")
    if arena_bytes > limits.ram_bytes:
        fixes.append("give the model fewer tokens (larger patches or smaller images) or narrower layers")
    if fixes:
        fix = f"{' and '.join(fixes)}, or raise the limits if the board has more"
        raise ArtifactError(
            f"{file} does not fit the microcontroller",
            expected=f"a file of at most {limits.flash_bytes} bytes in flash and an arena of at most "
            f"{limits.ram_bytes} bytes in RAM",
            got=f"{file_bytes} and {arena_bytes} bytes",
            fix=fix[0].upper() + fix[1:],
        )


def run_micro(
    path: Path, images: npt.NDArray[np.float32], progress: Progress = silent, silence_s: float = SILENCE_S
) -> MicroRun:
    """Runs an int8 ``.tflite`` file in TensorFlow Lite Micro's interpreter, in a worker process.

    Args:
        path: a file with int8 input and output.
        images: preprocessed, ``(N, H, W, C)``, N at least 1; they are quantised as the file asks.
        progress: called with the number of images done.
        silence_s: an image, or an attempt to load the file, that takes longer counts as a hang, s.

    Raises:
        MissingExtraError: tflite-micro is not installed.
        ArtifactError: no such file, or the interpreter cannot load or run it, crashes on it or hangs.
        DataError: the images are not what the file takes, or not finite.
    """
    if path.suffix != TFLITE.suffix or not path.is_file():
        raise ArtifactError(f"{path} cannot run on a microcontroller", expected=f"an existing {TFLITE.suffix} file")
    if images.ndim != 4 or not len(images) or not np.isfinite(images).all():
        raise DataError("Images must be finite and (N, H, W, C), N at least 1", got=f"shape {images.shape}")
    with tempfile.TemporaryDirectory() as scratch, Worker(_COMMAND, silence_s=silence_s) as worker:
        inside, outside = Path(scratch) / "images.npy", Path(scratch) / "logits.npy"
        np.save(inside, images.astype(np.float32, copy=False))
        request = {"model": str(path), "images": str(inside), "logits": str(outside)}
        try:
            found = worker.run("run", request, progress).checked()
        except WorkerError as failure:
            if failure.hung:
                raise ArtifactError(
                    f"TensorFlow Lite Micro hung on {path}", got="no answer in the time allowed for one image", fix=_FIX
                ) from None
            got = f"{failure.how} {_cause(failure.lines)}".strip()
            raise ArtifactError(f"TensorFlow Lite Micro crashed on {path}", got=got, fix=_FIX) from None
        if "refused" in found:
            expected, got = found["refused"]
            got = _cause(worker.stderr_lines()) or got
            raise ArtifactError(f"TensorFlow Lite Micro cannot run {path}", expected=expected, got=got, fix=_FIX)
        logits: npt.NDArray[np.float32] = np.load(outside)
    return MicroRun(logits, int(found["arena_bytes"]), path.stat().st_size, str(found["version"]))


def _cause(lines: Sequence[str]) -> str:
    """Returns the first lines that the interpreter wrote: they name the cause, and later lines its consequences."""
    return "; ".join(line.rstrip(".") for line in lines[:2])[:300]


def micro_form() -> Form:
    """Returns how quantised graphs become TFLite files for TensorFlow Lite Micro."""
    return replace(tflite_form(), prepare=micro_graph)


def check_micro_fits(artifact: Artifact, settings: Any) -> None:
    """Checks that a file fits ``settings.micro``, the limits of an ``ExportSettings``.

    Raises:
        ArtifactError: the file or its arena is too big.
    """
    assert artifact.arena_bytes is not None
    check_micro(artifact.file, artifact.size_bytes, artifact.arena_bytes, settings.micro)


TFLITE_MICRO = replace(
    INT8_FULL,
    name="tflite-micro",
    summary="TFLite in int8 for microcontrollers, with the operators of TensorFlow Lite Micro",
    precision="tflite-micro",
    label="micro",
    form=micro_form,
    run=run_micro,
    check=check_micro_fits,
)
