"""Makes standard streams usable: closed streams discard their text, and every character can be encoded."""

from __future__ import annotations

import codecs
import io
import os
import sys

_PLAIN = {
    **{"µ": "u", "×": "x", "–": "-", "…": "...", "±": "+-", "≤": "<=", "≥": ">=", "·": ".", "−": "-", "→": "->"},  # noqa: RUF001
    **{"₂": "2", "²": "2", "λ": "lambda", "τ": "tau", "•": "*", "━": "-", "─": "-", "│": "|"},
}
"""Replacements for characters of our texts that an encoding lacks."""


def prepare_streams() -> None:
    """Opens closed standard streams on the null device, and replaces characters that a stream cannot encode.

    A closed descriptor must not stay free: the next file that is opened would get its number, and what a library
    prints would be written into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    codecs.register_error("pocketvit-plain", _plain)
    sys.stdout = _usable(sys.stdout, 1)
    sys.stderr = _usable(sys.stderr, 2)


def _usable(stream: io.TextIOBase | object, number: int) -> io.TextIOWrapper:
    if stream is None:
        return open(number, "w", encoding="utf-8", errors="replace", closefd=False)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="pocketvit-plain")
    return stream  # type: ignore[return-value] # whatever a caller of ours put there


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Returns replacements for characters that an encoding lacks, or question marks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    # the replacements are ASCII, which every encoding of a terminal has
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end
