"""Named tensors in a safetensors file, whole or absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from runtime import atomic_path


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
            # safetensors hides the system's error in its text
            raise OSError(int(number[1]), str(error)) from error
