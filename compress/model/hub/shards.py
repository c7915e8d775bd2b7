"""The weights of a folder or repository: one file, or shards that an index lists."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from compress.model.checkpoint_file import read_tensors
from runtime import ModelError

from .fields import read_fields
from .place import Place

_WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of the files that hold or list the weights, in order of preference."""

_SHARD = re.compile(r"[\w-][\w.-]{0,120}\.(safetensors|bin)", re.ASCII)
_MOST_SHARDS = 200


def find_weights(place: Place) -> tuple[Path, ...]:
    """Returns the paths of the files that hold the weights; the repository's are fetched.

    Raises:
        ModelError: there are none, a file that the index lists is missing, or the index is damaged.
    """
    for name in _WHOLE:
        path = place.file(name)
        if path is not None:
            return _listed(path, place) if name.endswith(".json") else (path,)
    raise ModelError(f"{place.name} has no weights", expected=" or ".join(_WHOLE))


def _listed(index: Path, place: Place) -> tuple[Path, ...]:
    listed = read_fields(index).inner("weight_map").values
    names = sorted(set(map(str, listed.values())))
    if not 1 <= len(names) <= _MOST_SHARDS:
        raise ModelError(f"{index} lists {len(names)} files", expected=f"1 to {_MOST_SHARDS}")
    for name in names:
        if not _SHARD.fullmatch(name):
            raise ModelError(
                f"{index} lists a file that is no part of the model", expected="plain file names", got=repr(name[:80])
            )
    found = {name: place.file(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ModelError(f"{place.name} lacks '{missing[0]}', which its index lists")
    return tuple(path for path in found.values() if path is not None)


def tensor_shapes(files: tuple[Path, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all tensors by name; of safetensors, the files' headers alone are read.

    Raises:
        ModelError: a file is damaged or holds something else.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        if path.suffix != ".safetensors":
            found |= {name: tuple(value.shape) for name, value in _tensors(path).items()}
            continue
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"The weights {path} cannot be read", got=error) from error
    return found


def read_weights(files: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """Returns all tensors by name.

    Raises:
        ModelError: a file is damaged or holds something else.
    """
    found: dict[str, torch.Tensor] = {}
    for path in files:
        found |= _tensors(path)
    return found


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return {str(name): value for name, value in read_tensors(path).items() if isinstance(value, torch.Tensor)}
