"""What a person sees while work goes on: a bar with the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
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
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from runtime import Progress as Report

_LINE_EVERY_S = 10.0

_PACE_OVER_S = 600.0
"""The time left follows from the pace over so long: one step of a search may take minutes."""

_LABEL_WIDTH = 12
_BAR_WIDTH = 68
"""Characters of a line that a bar takes with what stands around it, its label no longer than ``_LABEL_WIDTH``."""


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tabs and line ends, and marks that turn the direction of writing around."""


class PlainConsole(Console):
    """A console on which text stands for itself: brackets are no markup, and names cannot steer the terminal.

    Names of files, classes and targets come from outside; whatever is printed here may hold any of them. Styles are
    given to tables and texts, never written into the text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns text as it stands, control characters spelt out."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields what a table or text consists of, control characters spelt out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def visible(text: str) -> str:
    r"""Returns text with its control characters spelt out.

    >>> visible("cat\x1b[31m")
    'cat\\x1b[31m'
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def stdout_console() -> PlainConsole:
    """Returns a console on stdout; as wide as it needs where stdout is not a terminal."""
    return PlainConsole() if sys.stdout.isatty() else PlainConsole(width=160)


def stderr_console() -> PlainConsole:
    """Returns a console on stderr, which breaks no lines."""
    return PlainConsole(stderr=True, soft_wrap=True)


@contextmanager
def shown() -> Iterator[Report]:
    """Yields a progress callback that draws on stderr.

    On a copy of it, so that it still shows while converters are kept quiet.
    """
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as copy:
        console = PlainConsole(file=copy, soft_wrap=True)
        if console.is_terminal:
            with _Bars(console) as bars:
                yield bars.report
        else:
            yield as_lines(console.print)


def as_lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Report:
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


class _Bars(Progress):
    """A bar for each stage at work, its note beside it where there is room, else below.

    A stage that has ended scrolls away with the lines above as the next one starts, so that many stages do not fill
    the screen. Of several devices at work, each has one bar: of its last stage.
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
        """Is the progress callback."""
        if total == 0:
            self.console.print(Text(f"{stage}: {note}"))
            return
        if stage not in self._ids:
            self._put_away(_device(stage))
            self._make_room(stage)
            self._ids[stage] = self.add_task(stage, total=total, note="", wide=self._wide)
        if len(note) > self.console.width - _BAR_WIDTH - (self._wide - _LABEL_WIDTH):
            self._below.add(self._ids[stage])  # and there it stays: notes change, and lines must not jump
        self.update(self._ids[stage], completed=done, total=total, note=note)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yields the bars, those of several devices always in one order."""
        for task in sorted(self.tasks, key=lambda task: self._devices.index(_device(task.description))):
            yield from self._rows(task)

    def _rows(self, task: Task) -> Iterator[RenderableType]:
        note = task.fields["note"]
        bar = self.make_tasks_table([task])
        beside = task.id not in self._below
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, Text(note) if beside else "")
        yield line
        if not beside:
            below = Table.grid(padding=(0, 1))
            below.add_column(width=1)
            below.add_column(overflow="fold")
            below.add_row("", Text(note))
            yield below

    def _make_room(self, stage: str) -> None:
        """Gives a new stage's device its place, and every label the room of the longest, so that bars are in line."""
        if _device(stage) not in self._devices:
            self._devices.append(_device(stage))
        self._wide = max(self._wide, len(stage))
        for task in self.tasks:
            self.update(task.id, wide=self._wide)

    def _put_away(self, device: str | None) -> None:
        """Lets stages scroll away that have ended; one that its device has left in the middle goes without a trace."""
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
    """Returns which of several devices a stage is of, as its name begins."""
    device, colon, _ = stage.partition(": ")
    return device if colon else None
