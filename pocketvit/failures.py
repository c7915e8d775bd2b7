"""Texts for errors of the system: no memory, no space, output that cannot be written."""

from __future__ import annotations

import errno

_NO_MEMORY = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "out of memory", "new thread")
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS}


def system_refusal(error: BaseException) -> str | None:
    """Returns a paragraph on an error of the system, or None for any other error."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    short = isinstance(error, (ImportError, RuntimeError, OSError)) and any(word in text.lower() for word in _NO_MEMORY)
    if isinstance(error, MemoryError) or short:
        return (
            f"There is not enough memory: {text.rstrip('.')}. Free some, raise a limit such as ulimit -v, or ask for "
            "less: smaller batches with --batch-size, a smaller model, one thread."
        )
    if isinstance(error, OSError) and error.errno in _REFUSED:
        where = f" ({error.filename})" if error.filename else ""
        return f"The system refuses to read or write{where}: {error.strerror}. Files that are finished are kept."
    return None
