"""The process in which TensorFlow Lite Micro runs a file: a crash or hang in it ends nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import DataError, MissingExtraError
from runtime.worker.child import Reporter, end_with_parent, limit, serve

_NAME = "TensorFlow Lite Micro"
_ROOM = 64 * 2**20
"""The largest arena that is tried, in bytes: far more than any microcontroller has."""

_STEP = 16
_ADDRESS_SPACE = 4 * 2**30

OpenModel = Callable[[int], Any]


class _RefusedError(Exception):
    """The interpreter cannot take the file; the arguments are what was expected and what was got."""


def run(reporter: Reporter, model: str, images: str, logits: str) -> dict[str, Any]:
    """Runs ``model`` on the images ``(N, H, W, C)`` of one ``.npy`` file and writes their logits to another.

    Returns:
        ``arena_bytes`` and ``version``; or ``refused``, with what was expected and what was got.

    Raises:
        MissingExtraError: tflite-micro is not installed.
        DataError: the images are not of the size that the file takes.
    """
    limit("RLIMIT_AS", _ADDRESS_SPACE + 2 * Path(images).stat().st_size)
    try:
        from tflite_micro import __version__, runtime
    except ImportError:
        raise MissingExtraError("tflite-micro", "micro") from None
    data, pictures = Path(model).read_bytes(), np.load(images)

    def opened(room: int) -> Any:
        reporter.doing(_NAME, "loading")
        return runtime.Interpreter.from_bytes(data, arena_size=room)

    try:
        found, raw = _answers(opened, pictures, model, reporter)
    except _RefusedError as refused:
        return {"refused": refused.args}
    np.save(logits, found)
    return {"arena_bytes": least_arena(opened, raw), "version": __version__}


def _answers(
    opened: OpenModel, pictures: npt.NDArray[np.float32], model: str, reporter: Reporter
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Returns the logits of all pictures, and the last picture as int8."""
    try:
        interpreter = opened(_ROOM)
        details = interpreter.get_input_details(0), interpreter.get_output_details(0)
        (scale, zero_point), (out_scale, out_zero) = map(_qparams, details)
    except _RefusedError:
        raise
    except Exception as error:  # the flatbuffer reader fails on damaged files in every way there is
        raise _RefusedError("a model it can load", f"{type(error).__qualname__}: {str(error)[:200]}") from error
    wanted = tuple(int(size) for size in details[0]["shape"])
    if (1, *pictures.shape[1:]) != wanted:
        raise DataError(f"The images do not fit {model}", expected=("N", *wanted[1:]), got=("N", *pictures.shape[1:]))
    outputs = []
    for done, picture in enumerate(pictures, 1):
        raw = np.clip(np.rint(picture[None] / scale) + zero_point, -128, 127).astype(np.int8)
        try:
            interpreter.set_input(raw, 0)
            interpreter.invoke()
        except Exception as error:  # pybind turns whatever went wrong into some exception
            raise _RefusedError("a model it can run", str(error)[:200]) from error
        outputs.append(np.array(interpreter.get_output(0)[0]))
        reporter.progress(f"run in {_NAME}", done, len(pictures))
    return ((np.stack(outputs).astype(np.float32) - np.float32(out_zero)) * out_scale).astype(np.float32), raw


def least_arena(opened: OpenModel, raw: npt.NDArray[np.int8]) -> int:
    """Returns the least multiple of 16 bytes in which the model loads and runs, by bisection.

    The figure that the interpreter reports leaves out memory that it needs only while it loads.

    Args:
        opened: loads the model into an arena of so many bytes.
        raw: an input.
    """
    too_small, enough = 0, _ROOM // _STEP
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if _runs(opened, raw, middle * _STEP):
            enough = middle
        else:
            too_small = middle
    return enough * _STEP


def _runs(opened: OpenModel, raw: npt.NDArray[np.int8], room: int) -> bool:
    """Tries it in a copy of this process: where there is too little room, the interpreter may crash."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            end_with_parent(parent)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            interpreter = opened(room)
            interpreter.set_input(raw, 0)
            interpreter.invoke()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _qparams(detail: dict[str, Any]) -> tuple[np.float32, int]:
    """Returns scale and zero point of an int8 tensor."""
    dtype, how = np.dtype(detail["dtype"]).name, detail["quantization_parameters"]
    if dtype != "int8" or len(how["scales"]) != 1 or not how["scales"][0] > 0:
        raise _RefusedError("an int8 input and output, each with one scale", dtype)
    return np.float32(how["scales"][0]), int(how["zero_points"][0])


if __name__ == "__main__":
    sys.exit(serve({"run": run}))
