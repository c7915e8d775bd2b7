"""Writes a report as HTML and as Markdown."""

from __future__ import annotations

from pathlib import Path

from runtime import write_bytes

from .document import ReportPage
from .html import html
from .markdown import markdown


def save(document: ReportPage, folder: Path) -> tuple[Path, Path]:
    """Writes ``report.md``, ``report.html`` and the drawings of a report into a folder.

    Returns:
        The paths of ``report.md`` and ``report.html``.

    Raises:
        MissingExtraError: jinja2 is not installed.
        StorageError: a file cannot be written.
    """
    texts = {"report.md": markdown(document), "report.html": html(document)}
    for drawing in document.drawings:
        write_bytes(folder / drawing.file, drawing.svg.encode())
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    return folder / "report.md", folder / "report.html"
