"""What a person sees while work goes on: a bar with the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from runtime import Progress as Report

_LINE_EVERY_S = 10.0


def stdout_console() -> Console:
    """Returns a console on stdout; as wide as it needs where stdout is not a terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)


@contextmanager
def shown() -> Iterator[Report]:
    """Yields a progress callback that draws on stderr.

    On a copy of it, so that it still shows while converters are kept quiet.
    """
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as copy:
        console = Console(file=copy, highlight=False, soft_wrap=True)
        if console.is_terminal:
            with _bar(console) as bar:
                yield _on_bar(bar)
        else:
            yield as_lines(lambda line: console.print(line, markup=False))


def as_lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Report:
    """Returns a progress callback that writes a line when a stage starts and ends, and every ten seconds."""
    last: dict[str, float] = {}

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        now = clock()
        if stage in last and done < total and now - last[stage] < _LINE_EVERY_S:
            return
        last[stage] = now
        write(f"{stage}: {done}/{total}{f'  {note}' if note else ''}")

    return report


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )


def _on_bar(bar: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total, note=note)
        bar.update(tasks[stage], completed=done, total=total, note=note)

    return report
