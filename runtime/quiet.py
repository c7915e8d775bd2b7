"""Keeps the output of engines and converters off the terminal, and adds its end to their errors."""

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

    When the block raises, the end of the output is added to the exception as a note.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as scratch:
        saved = [(fd, os.dup(fd)) for fd in (1, 2)]
        try:
            for fd, _ in saved:
                os.dup2(scratch.fileno(), fd)
            # notebooks and test runners replace the two streams by other objects
            with warnings.catch_warnings(), contextlib.redirect_stdout(scratch), contextlib.redirect_stderr(scratch):
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            scratch.flush()
            size = os.fstat(scratch.fileno()).st_size
            end = os.pread(scratch.fileno(), _TAIL, max(0, size - _TAIL))
            error.add_note(end.decode(errors="replace"))
            raise
        finally:
            scratch.flush()
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)
