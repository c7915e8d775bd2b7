"""Progress on stderr: a bar with the time left for each stage, or plain lines where there is no terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from runtime import Progress as Report

from .console import PlainConsole

_LINE_EVERY_S = 10.0

_PACE_OVER_S = 600.0
"""The time left follows from the pace over this time: one step of a search may take minutes."""

_LABEL_WIDTH = 12
_BAR_WIDTH = 68
"""Characters that a bar and its columns take when its label is no longer than ``_LABEL_WIDTH``."""


@contextmanager
def show_progress() -> Iterator[Report]:
    """Yields a progress callback that draws on a copy of stderr, which still shows while converters are kept quiet."""
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as copy:
        console = PlainConsole(file=copy, soft_wrap=True)
        if console.is_terminal:
            with ProgressBars(console) as bars:
                yield bars.report
        else:
            yield progress_lines(console.print)


def progress_lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Report:
    """Returns a progress callback that writes a line when a stage starts and ends, and every ten seconds."""
    last: dict[str, float] = {}

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        if total == 0:
            write(f"{stage}: {note}")
            return
        now = clock()
        if stage in last and done < total and now - last[stage] < _LINE_EVERY_S:
            return
        last[stage] = now
        write(f"{stage}: {done}/{total}{f'  {note}' if note else ''}")

    return report


class ProgressBars(Progress):
    """Draws one bar for each running stage, with its note to the right where there is room, else below.

    A finished stage scrolls away with the lines above when the next one starts, so that many stages do not fill the
    screen. When several devices work, each has one bar, for its latest stage.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description:<{task.fields[wide]}}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_PACE_OVER_S,
        )
        self._ids: dict[str, TaskID] = {}
        self._below: set[TaskID] = set()
        self._wide = _LABEL_WIDTH
        self._devices: list[str | None] = []

    def report(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Draws the progress of a stage."""
        if total == 0:
            self.console.print(Text(f"{stage}: {note}"))
            return
        if stage not in self._ids:
            self._put_away(_device(stage))
            self._make_room(stage)
            self._ids[stage] = self.add_task(stage, total=total, note="", wide=self._wide)
        if len(note) > self.console.width - _BAR_WIDTH - (self._wide - _LABEL_WIDTH):
            self._below.add(self._ids[stage])  # it stays below, since notes change and lines must not jump
        self.update(self._ids[stage], completed=done, total=total, note=note)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yields the bars, in the order in which their devices began."""
        for task in sorted(self.tasks, key=lambda task: self._devices.index(_device(task.description))):
            yield from self._rows(task)

    def _rows(self, task: Task) -> Iterator[RenderableType]:
        note = task.fields["note"]
        bar = self.make_tasks_table([task])
        fits = task.id not in self._below
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, Text(note) if fits else "")
        yield line
        if not fits:
            below = Table.grid(padding=(0, 1))
            below.add_column(width=1)
            below.add_column(overflow="fold")
            below.add_row("", Text(note))
            yield below

    def _make_room(self, stage: str) -> None:
        """Adds the stage's device to the order, and widens every label to the longest, so that bars are in line."""
        if _device(stage) not in self._devices:
            self._devices.append(_device(stage))
        self._wide = max(self._wide, len(stage))
        for task in self.tasks:
            self.update(task.id, wide=self._wide)

    def _put_away(self, device: str | None) -> None:
        """Lets finished stages scroll away, and drops the stage that the device has left unfinished."""
        for stage, number in list(self._ids.items()):
            task = next(task for task in self.tasks if task.id == number)
            left = device is not None and _device(stage) == device
            if not (task.finished or left):
                continue
            rows = list(self._rows(task)) if task.finished else []
            self.remove_task(number)
            del self._ids[stage]
            for row in rows:
                self.console.print(row)


def _device(stage: str) -> str | None:
    """Returns the device that a stage's name begins with, if there is one."""
    device, colon, _ = stage.partition(": ")
    return device if colon else None
