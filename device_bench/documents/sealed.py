"""Documents that nobody may edit: JSON with a digest of its own content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from runtime import ArtifactError, read_document, write_document


def write_sealed(path: Path, schema: str, version: int, body: dict[str, Any]) -> None:
    """Writes ``body`` as JSON with a digest of it, atomically.

    Raises:
        StorageError: the file cannot be written.
    """
    write_document(path, schema, version, {**body, "digest": _digest(body)})


def read_sealed(path: Path, schema: str, version: int, fix: str) -> dict[str, Any]:
    """Reads a document that ``write_sealed`` wrote, and returns its body without the digest.

    Args:
        path: of the document.
        schema: it must have.
        version: it may have at most.
        fix: what to do where somebody edited it.

    Raises:
        ArtifactError: the file is missing, truncated, edited, of another schema, or of a newer version.
    """
    body = read_document(path, schema, version)
    written, found = body.pop("digest", None), _digest(body)
    if written != found:
        raise ArtifactError(
            f"{path} was changed after it was written",
            expected=f"digest {written}" if isinstance(written, str) else "a digest",
            got=found,
            fix=fix,
        )
    return body


def _digest(body: dict[str, Any]) -> str:
    """Returns the SHA-256 of the canonical JSON of ``body``; it depends on no field's order."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
