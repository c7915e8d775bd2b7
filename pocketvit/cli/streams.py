"""Makes standard streams usable: closed ones lead nowhere, and every character has a form in their encoding."""

from __future__ import annotations

import codecs
import io
import os
import sys

_PLAIN = {
    **{"µ": "u", "×": "x", "–": "-", "…": "...", "±": "+-", "≤": "<=", "≥": ">=", "·": ".", "−": "-", "→": "->"},  # noqa: RUF001
    **{"₂": "2", "²": "2", "λ": "lambda", "τ": "tau", "•": "*", "━": "-", "─": "-", "│": "|"},
}
"""How characters of our own texts are written where an encoding lacks them."""


def prepare_streams() -> None:
    """Opens closed standard streams on the null device, and lets none of them fail for a character it cannot encode.

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
    """Writes characters that an encoding lacks in plain ones, or as a question mark."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    # the stand-ins are ASCII, which every encoding of a terminal has
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end
