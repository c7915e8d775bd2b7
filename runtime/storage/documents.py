"""Versioned JSON documents and files of JSON lines: written whole, checked when they are read."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from runtime.errors import ArtifactError

from .codec import decode, encode
from .files import dumps, storage_errors, write_bytes

T = TypeVar("T")

_EDITED = "The file was truncated or edited by hand: write it again"


@dataclass(frozen=True)
class Document(Generic[T]):
    """One kind of JSON file: a schema name, a version and the dataclass that holds the content.

    A file has the keys ``schema`` and ``schema_version`` and the fields of the dataclass.

    Attributes:
        schema: name that every file of this kind carries.
        version: version that is written; this version and all older ones are read.
        kind: dataclass of the content.
        key: key that holds the fields; by default they stand at the top.
        upgrade: turns the fields of an older version, given that version, into those of this one.
        sealed: what a user should do whose file was edited. Such a file carries a digest of its fields.
    """

    schema: str
    version: int
    kind: type[T]
    key: str | None = None
    upgrade: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    sealed: str | None = None

    def write(self, path: Path, value: T) -> None:
        """Writes ``value`` to ``path``, atomically.

        Raises:
            StorageError: there is no space, or no permission to write.
            ArtifactError: ``value`` holds a number that is not finite or a text with lone surrogates.
        """
        body = encode(value) if self.key is None else {self.key: encode(value)}
        seal = {"digest": _digest(body)} if self.sealed else {}
        try:
            data = dumps({"schema": self.schema, "schema_version": self.version, **body, **seal}).encode()
        except ValueError as error:
            raise ArtifactError(f"{path} cannot be written as JSON", got=error) from error
        write_bytes(path, data)

    def read(self, path: Path) -> T:
        """Reads and checks a document.

        Raises:
            ArtifactError: the file is missing, truncated, invalid, of another schema or of a newer version, or a
                sealed file was edited.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ArtifactError(f"{path} does not exist", expected=f"a {self.schema} document") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{path} cannot be read", got=error) from error
        body, version = _without_head(_parsed(text, str(path)), str(path), self.schema, self.version)
        if self.sealed:
            _check_digest(path, body, self.sealed)
        content = body if self.key is None else body.get(self.key)
        if self.upgrade and version < self.version and isinstance(content, dict):
            try:
                content = self.upgrade(content, version)
            except ArtifactError as error:
                raise ArtifactError(f"{path} cannot be read: {error}") from error
        return decode(self.kind, content, str(path) if self.key is None else f"{path}: {self.key}")

    def read_if_there(self, path: Path) -> T | None:
        """Reads a document; returns None where there is no such file.

        Raises:
            ArtifactError: see ``read``.
        """
        return self.read(path) if path.is_file() else None


@dataclass(frozen=True)
class JsonLines:
    """One kind of file of JSON objects, one a line, that grows while work goes on.

    The first line of a kind with a schema is a header with the keys ``schema`` and ``schema_version``. The last line
    may be cut off, as a killed process leaves it: readers leave it out, and the next ``append`` removes it.

    Attributes:
        schema: name in the header; without one there is no header.
        version: version in the header that is written; this version and all older ones are read.
    """

    schema: str | None = None
    version: int = 1

    def write(
        self, path: Path, header: Mapping[str, Any] | None = None, records: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Writes header and records to ``path``, atomically, in place of what is there.

        Args:
            path: of the file.
            header: keys of the header that follow schema and version.
            records: the other lines.

        Raises:
            StorageError: there is no space, or no permission to write.
        """
        write_bytes(path, b"".join(map(_line, [*self._header(header), *records])))

    def append(self, path: Path, *records: Mapping[str, Any]) -> None:
        """Adds lines at the end, in one write, so that a killed process leaves at most one line cut off.

        Raises:
            StorageError: there is no space, or no permission to write.
        """
        with storage_errors(path), path.open("ab+", buffering=0) as file:
            _drop_cut_off_line(file)
            file.write(b"".join(map(_line, records)))

    def read(self, path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, dict[str, Any]]]]:
        """Returns the header without schema and version, and the other lines.

        The lines are checked one by one as they are taken, so whoever wants only those before a damaged one has them.

        Returns:
            The header, empty for a kind without one, and for each record its place in words and its content.

        Raises:
            ArtifactError: the file is missing or cannot be read, its header is of another schema or a newer version,
                or a whole line is not a JSON object.
        """
        lines = _whole_lines(path)
        if self.schema is None:
            return {}, lines
        _, line = next(lines, ("", {}))
        return _without_head(line, str(path), self.schema, self.version)[0], lines

    def _header(self, header: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
        head = {} if self.schema is None else {"schema": self.schema, "schema_version": self.version}
        return [{**head, **(header or {})}] if head or header else []


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def _drop_cut_off_line(file: io.FileIO) -> None:
    """Shortens an open file to its last newline."""
    if not file.tell():
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data = path.read_bytes()
        lines = data[: data.rfind(b"\n") + 1].decode().split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read", got=error) from error
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        parsed = _parsed(line, where)
        if not isinstance(parsed, dict):
            raise ArtifactError(f"{where} is no object", got=type(parsed).__name__)
        yield where, parsed


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is not valid JSON", got=error, fix=_EDITED) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number JSON knows")


def _without_head(document: Any, where: str, schema: str, version: int) -> tuple[dict[str, Any], int]:
    """Returns a document without schema and version, and the version.

    Raises:
        ArtifactError: it is of another schema or a newer version.
    """
    if not isinstance(document, dict) or document.get("schema") != schema:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise ArtifactError(f"{where} is another kind of document", expected=schema, got=repr(found)[:80])
    number = document.get("schema_version")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ArtifactError(f"{where} has no valid schema_version", expected="an integer", got=repr(number)[:80])
    if number > version:
        raise ArtifactError(
            f"{where} was written by a newer PocketViT",
            expected=f"{schema} version {version} or older",
            got=f"version {str(number)[:80]}",
            fix="Update this installation: pip install --upgrade pocketvit",
        )
    return {key: value for key, value in document.items() if key not in {"schema", "schema_version"}}, number


def _check_digest(path: Path, body: dict[str, Any], fix: str) -> None:
    """Removes the digest from ``body`` after comparing it with the rest."""
    written, found = body.pop("digest", None), _digest(body)
    if written != found:
        raise ArtifactError(
            f"{path} was changed after it was written",
            expected=f"digest {written}" if isinstance(written, str) else "a digest",
            got=found,
            fix=fix,
        )


def _digest(body: dict[str, Any]) -> str:
    """Returns the SHA-256 of the canonical JSON of ``body``; it depends on no field's order."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
