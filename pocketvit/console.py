"""Consoles on which text stands for itself, so that names from outside cannot steer the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tabs and line ends, and marks that change the direction of writing."""


class PlainConsole(Console):
    """A console that takes brackets as text, not as markup, and spells out control characters.

    The names of files, classes and targets come from outside and may contain anything. Styles belong to tables and
    texts and are never written into the text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns text as it is, with control characters spelt out."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments of a table or text, with control characters spelt out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def visible(text: str) -> str:
    r"""Returns text with its control characters spelt out.

    >>> visible("cat\x1b[31m")
    'cat\\x1b[31m'
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def stdout_console() -> PlainConsole:
    """Returns a console on stdout, 160 columns wide where stdout is not a terminal."""
    return PlainConsole() if sys.stdout.isatty() else PlainConsole(width=160)


def stderr_console() -> PlainConsole:
    """Returns a console on stderr that breaks no lines."""
    return PlainConsole(stderr=True, soft_wrap=True)
