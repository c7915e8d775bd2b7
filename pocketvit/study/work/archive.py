"""A run folder as an archive in memory, to send it to another machine."""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from runtime import ArtifactError, storage_errors

_LEFT_OUT = re.compile(r"training\.safetensors|tas\.safetensors|\..*")
_MOST_BYTES = 2**34


def pack(folder: Path) -> bytes:
    """Returns the files of a folder as a tar archive, but for states of unfinished training and hidden files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not path.is_symlink() and not any(map(_LEFT_OUT.fullmatch, inside.parts)):
                archive.add(path, inside.as_posix(), recursive=False)
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    """Returns the SHA-256 of an archive."""
    return hashlib.sha256(data).hexdigest()


def unpack_run(data: bytes, digest: str, place: Path) -> None:
    """Replaces a folder by the contents of an archive, atomically.

    Args:
        data: what ``pack`` returned.
        digest: of it.
        place: the folder.

    Raises:
        ArtifactError: the archive is damaged, or holds anything but plain files within its folder.
        StorageError: there is no space, or no permission to write.
    """
    if digest_of(data) != digest:
        raise ArtifactError(f"What came back for {place.name} is damaged", expected=digest, got=digest_of(data))
    scratch = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        with storage_errors(place):
            scratch.mkdir(parents=True)
            _extract(data, scratch, place.name)
            if place.exists():
                shutil.rmtree(place)
            scratch.replace(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _extract(data: bytes, folder: Path, name: str) -> None:
    left = _MOST_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                left -= member.size
                path = PurePosixPath(member.name)
                safe = member.isreg() and path.parts and not path.is_absolute() and ".." not in path.parts
                if not safe or left < 0 or "\0" in member.name:
                    raise ArtifactError(f"What came back for {name} holds what no run does", got=repr(member.name)[:80])
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                with target.open("xb") as handle:
                    shutil.copyfileobj(content, handle)
    except (tarfile.TarError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ArtifactError(f"What came back for {name} cannot be read", got=error) from error
