"""The process in which TensorFlow Lite Micro runs a file: a crash or hang in it ends nothing else.

Started by ``micro`` as a script, so it imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

_ROOM = 64 * 2**20
"""Bytes of arena tried at most: far beyond any microcontroller."""

_STEP = 16
_ADDRESS_SPACE = 4 * 2**30


class RefusedError(Exception):
    """The file or the images are at fault; says what was expected and got."""


def main(model: str, images: str, answers: str, silence_s: str) -> int:
    """Runs ``model`` on the images of one ``.npy`` file and writes their logits to another.

    A step that takes longer than ``silence_s`` ends this process.
    """
    # the interpreter chats on stdout too, which is for answers alone
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _Watch.silence_s = float(silence_s)
    _Watch.begin()
    _limit(2 * Path(images).stat().st_size)
    try:
        from tflite_micro import __version__, runtime
    except ImportError:
        return _tell(stream, missing="tflite-micro")
    data, pictures = Path(model).read_bytes(), np.load(images)

    def opened(room: int) -> Any:
        return runtime.Interpreter.from_bytes(data, arena_size=room)

    try:
        interpreter = opened(_ROOM)
        scale, zero_point = _grid(interpreter.get_input_details(0))
        out_scale, out_zero = _grid(interpreter.get_output_details(0))
    except RefusedError as refused:
        return _tell(stream, refusal=refused.args)
    except Exception as error:  # the flatbuffer reader fails on damaged files in every way there is
        return _tell(stream, refusal=("a model it can load", f"{type(error).__qualname__}: {str(error)[:200]}"))
    wanted = tuple(int(size) for size in interpreter.get_input_details(0)["shape"])
    if (1, *pictures.shape[1:]) != wanted:
        return _tell(stream, misfit=(f"{('N', *wanted[1:])}", f"{('N', *pictures.shape[1:])}"))
    outputs = []
    for position, picture in enumerate(pictures):
        raw = np.clip(np.rint(picture[None] / scale) + zero_point, -128, 127).astype(np.int8)
        try:
            interpreter.set_input(raw, 0)
            interpreter.invoke()
        except Exception as error:  # pybind turns whatever went wrong into some exception
            return _tell(stream, refusal=("a model it can run", str(error)[:200]))
        outputs.append(interpreter.get_output(0).ravel())
        _tell(stream, done=position + 1)
    logits = (np.stack(outputs).astype(np.float32) - np.float32(out_zero)) * out_scale
    np.save(answers, logits.astype(np.float32))
    return _tell(stream, arena_bytes=least_arena(opened, raw), version=__version__)


def least_arena(opened: Callable[[int], Any], raw: npt.NDArray[np.int8]) -> int:
    """Returns the least multiple of 16 bytes in which the model loads and runs, by bisection.

    What the interpreter itself reports leaves out memory that it takes for a moment while it loads.

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


def _runs(opened: Callable[[int], Any], raw: npt.NDArray[np.int8], room: int) -> bool:
    """Tries it in a copy of this process: where there is too little room, the interpreter may crash."""
    _Watch.begin()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _Watch.begin()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            interpreter = opened(room)
            interpreter.set_input(raw, 0)
            interpreter.invoke()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _grid(detail: dict[str, Any]) -> tuple[np.float32, int]:
    """Returns scale and zero point of an int8 tensor."""
    dtype, how = np.dtype(detail["dtype"]).name, detail["quantization_parameters"]
    if dtype != "int8" or len(how["scales"]) != 1 or not how["scales"][0] > 0:
        raise RefusedError("an int8 input and output, each with one scale", dtype)
    return np.float32(how["scales"][0]), int(how["zero_points"][0])


def _tell(stream: TextIO, **said: Any) -> int:
    stream.write(json.dumps(said) + "\n")
    stream.flush()
    _Watch.begin()
    return 0


class _Watch:
    """Ends this process where one step takes too long, even while native code holds it."""

    silence_s = 0.0

    @classmethod
    def begin(cls) -> None:
        """Begins another step."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, cls.silence_s)


def _limit(images_bytes: int) -> None:
    """Keeps a hostile file from taking all memory, and a crash from leaving a core file."""
    for name, value in (("RLIMIT_CORE", 0), ("RLIMIT_AS", _ADDRESS_SPACE + images_bytes)):
        with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
            import resource

            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
