"""Runs on an emulated board: invokes a file some times, and marks each invoke for the emulator that counts.

A mark is the closing of a descriptor that is not open, one system call that leaves nothing behind. Between two marks is
the engine's run and no more of Python than the call of it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from device_bench.timing.inputs import random_input
from runtime import Engine, open_device_engine, open_engine
from runtime.engines import engine_of

FIRST_MARK = 424200
"""The descriptor whose closing is mark 0; the emulator's plugin knows the same number."""

_SEED = 0


def main(arguments: Sequence[str]) -> int:
    """Invokes a file, once to warm up and then as often as asked, and writes which engine did it as JSON.

    Args:
        arguments: the file's path, and the number of invokes after the first.
    """
    path, runs = Path(arguments[0]), int(arguments[1])
    engine, invoke = _loaded(path)
    gc.collect()
    gc.disable()
    close = os.closerange
    for mark in range(FIRST_MARK, FIRST_MARK + runs + 1):
        close(mark, mark + 1)
        invoke()
    close(mark + 1, mark + 2)
    sys.stdout.write(json.dumps({"engine": engine.name, "engine_version": engine.version}) + "\n")
    return 0


def _loaded(path: Path) -> tuple[Engine, Callable[[], object]]:
    if engine_of(path).resident:
        resident = open_device_engine(path, device="cpu")
        return resident, resident.resident(random_input(resident, path.name, _SEED)).run
    engine = open_engine(path)
    batch = random_input(engine, path.name, _SEED)
    return engine, lambda: engine.run(batch)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
