"""The process that does the steps of a cell by the command line; it ends with the process that started it."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pocketvit.study.work.attempts import begin_attempt
from pocketvit.study.work.process import SAYS, THEN
from runtime import PocketVitError
from runtime.worker.child import end_with_parent

BEAT_S = 2.0


def main(words: Sequence[str]) -> None:
    """Does steps of a cell until one fails, all in one process, since torch loads for longer than many steps take.

    Args:
        words: the id of the process that started this one; the folder whose working time is kept, or ``-``; and the
            steps, each after a ``THEN``: ``fine-tune FOLDER``, ``answer FOLDER``, or a command of ``pocketvit``.
    """
    parent, folder, *rest = words
    end_with_parent(int(parent))
    if folder != "-":
        _keep_time(Path(folder))
    sys.exit(steps_in_turn(steps_of(rest)))


def steps_in_turn(steps: Sequence[Sequence[str]]) -> int:
    """Does steps in order, and returns the exit code of the first that fails, or 0."""
    for step in steps:
        sys.stderr.write(f"{SAYS}{shlex.join(step)}\n")
        sys.stderr.flush()
        own = {"fine-tune": _fine_tune, "answer": _answer}.get(step[0])
        code = _command(step) if own is None else _own(own, Path(step[1]))
        if code:
            return code
    return 0


def steps_of(words: Sequence[str]) -> list[list[str]]:
    """Splits words into steps.

    >>> steps_of([THEN, "fine-tune", "a", THEN, "answer", "a"])
    [['fine-tune', 'a'], ['answer', 'a']]
    """
    steps: list[list[str]] = []
    for word in words:
        if word == THEN:
            steps.append([])
        else:
            steps[-1].append(word)
    return steps


def _command(step: Sequence[str]) -> int:
    """Runs a command of ``pocketvit``, and returns its exit code."""
    from pocketvit.cli import main as command_line

    sys.argv = ["pocketvit", *step]
    try:
        command_line()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return 0


def _own(step: Callable[[Path], None], folder: Path) -> int:
    """Does a step that is no command, and returns its exit code."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        step(folder)
    except PocketVitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _keep_time(folder: Path, sleep: Callable[[float], None] = time.sleep) -> None:
    beat = begin_attempt(folder)

    def keep() -> None:
        while True:
            sleep(BEAT_S)
            with suppress(OSError):  # a failure of the time record must not end the work
                beat()

    threading.Thread(target=keep, daemon=True).start()


def _fine_tune(folder: Path) -> None:
    from pocketvit.progress import show_progress
    from pocketvit.study.baselines import train_baseline

    with show_progress() as progress:
        train_baseline(folder, progress)


def _answer(folder: Path) -> None:
    from pocketvit.progress import show_progress
    from pocketvit.study.answers import answer

    with show_progress() as progress:
        answer(folder, progress)


if __name__ == "__main__":
    main(sys.argv[1:])
