"""Packs the Python packages that a device needs into one zip file; equal sources give equal bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import runtime

MAIN = "from device_bench.worker.child import main\n\nraise SystemExit(main())\n"
_PACKAGES = ("runtime", "device_bench")
_LEFT_OUT = (
    *("__pycache__", "report", "gate", "latency_table"),
    *("android", "emulated", "remote", "software_gpu"),
)
"""Folders that only the host needs."""

_THEN = (1980, 1, 1, 0, 0, 0)


def bundle() -> bytes:
    """Returns ``runtime`` and ``device_bench`` as a zipapp that does one job of ``device_bench.worker.child``."""
    top = Path(runtime.__file__).resolve().parent.parent
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(zipfile.ZipInfo("__main__.py", _THEN), MAIN)
        for package in _PACKAGES:
            for path in sorted((top / package).rglob("*")):
                inside = path.relative_to(top)
                if path.is_file() and not set(inside.parts) & set(_LEFT_OUT):
                    entry = zipfile.ZipInfo(inside.as_posix(), _THEN)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    packed.writestr(entry, path.read_bytes())
    return stream.getvalue()
