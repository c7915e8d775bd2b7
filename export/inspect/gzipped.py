"""The size of a file compressed by gzip, as in a download or an app package."""

from __future__ import annotations

import zlib
from pathlib import Path

_GZIP, _LEVEL, _CHUNK = 31, 6, 1 << 20


def gzip_size(path: Path) -> int:
    """Returns the bytes of ``path`` compressed as gzip does by default (level 6), without a name in the header.

    Ref: RFC 1952.
    """
    compressor, size = zlib.compressobj(_LEVEL, wbits=_GZIP), 0
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())
