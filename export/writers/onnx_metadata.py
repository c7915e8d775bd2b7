"""What an ONNX file says of itself: its labels, how its images are prepared, its recipe and its weights."""

from __future__ import annotations

from collections.abc import Mapping

from runtime import MissingExtraError

PREFIX = "pocketvit."
"""Start of the names of our entries of ``metadata_props``."""


def with_metadata(content: bytes, entries: Mapping[str, str]) -> bytes:
    """Returns the content of an ONNX file with entries added to its ``metadata_props``; their names get ``PREFIX``.

    Messages of Protocol Buffers that stand one behind the other are read as one, so the file is not parsed.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "export") from None
    added = onnx.ModelProto()
    for name, value in entries.items():
        entry = added.metadata_props.add()
        entry.key, entry.value = f"{PREFIX}{name}", value
    return content + bytes(added.SerializeToString(deterministic=True))
