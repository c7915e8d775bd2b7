"""HTML of a report: one page that needs no other file."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from device_bench import format
from runtime import MissingExtraError

from .document import ReportPage


def html(document: ReportPage) -> str:
    """Returns a whole report as an HTML page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "bench") from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["unbroken"] = _unbroken
    source, style = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in _FILES)
    context: dict[str, Any] = {"document": document, "style": style, "missing": format.MISSING, "step": format.step}
    return str(environment.from_string(source).render(context)) + "\n"


_UNIT = re.compile(r"(?<!\w)([\d.,]*\d×?) (?=[A-Za-zµ%°\[])")  # noqa: RUF001
_FILES = ("page.html.j2", "page.css")


def _unbroken(text: str) -> str:
    """Returns text in which no line ends between a number and its unit."""
    return _UNIT.sub("\\1\N{NO-BREAK SPACE}", text)
