"""Safetensors files that are written atomically, and states of unfinished work in them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from runtime import ArtifactError, atomic_path, decode, encode

Header = TypeVar("Header")
Tensors = Mapping[str, torch.Tensor]


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes ``tensors`` to ``path``, atomically.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    with atomic_path(path) as temporary:
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            # safetensors has the number of the system's error only in its text
            raise OSError(int(number[1]), str(error)) from error


def write_groups(path: Path, fingerprint: str, header: Any, groups: Mapping[str, Tensors]) -> None:
    """Writes groups of named tensors and a header, atomically.

    Args:
        path: the file.
        fingerprint: text that identifies the work; the file keeps its digest.
        header: a dataclass that ``encode`` takes, with no field ``fingerprint``.
        groups: tensors by name, for every group by name; group names have no slash.

    Raises:
        StorageError: the file cannot be written.
    """
    tensors = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
    head = {"fingerprint": _digest(fingerprint), **encode(header)}
    write_tensors(path, tensors, {"header": json.dumps(head)})


def read_groups(
    path: Path, fingerprint: str, kind: type[Header], names: Sequence[str]
) -> tuple[Header, dict[str, dict[str, torch.Tensor]]] | None:
    """Reads a file of ``write_groups``; returns None where it is missing, damaged, or belongs to other work.

    Args:
        path: the file.
        fingerprint: text that identifies the work to resume.
        kind: class of the header.
        names: names of the groups; a group without tensors is returned empty.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            head = dict(json.loads(file.metadata()["header"]))
            if head.pop("fingerprint") != _digest(fingerprint):
                return None
            groups: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
            for key in file.keys():
                group, name = key.split("/", 1)
                groups[group][name] = file.get_tensor(key)
            return decode(kind, head, str(path)), groups
    except (SafetensorError, ArtifactError, ValueError, TypeError, KeyError, RecursionError, OSError):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
