"""Keeps the chatter of engines and converters off the terminal, and shows its end when they fail."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

_TAIL = 1500


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Sends everything written to stdout and stderr, by Python or by native code, to a scratch file.

    When the block raises, the end of what was written is added to the exception as a note.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = [(fd, os.dup(fd)) for fd in (1, 2)]
        try:
            for fd, _ in saved:
                os.dup2(scratch.fileno(), fd)
            yield
        except Exception as error:
            scratch.seek(max(0, scratch.seek(0, os.SEEK_END) - _TAIL))
            error.add_note(scratch.read().decode(errors="replace"))
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)
