"""Where a finished file goes: it is moved into place first, and its manifest is written last."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime import Artifact, Engine, TensorSpec, manifest_path, write_artifact

REJECTED = "rejected"
"""Name of the folder for refused files, in the folder of the released ones."""


def tensor_spec(engine: Engine, side: str, layout: str) -> TensorSpec:
    """Returns the ``input`` or the ``output`` of a loaded file."""
    scale, zero_point = getattr(engine, f"{side}_qparams") or (None, None)
    return TensorSpec(
        name=getattr(engine, f"{side}_name"),
        shape=getattr(engine, f"{side}_shape"),
        dtype=getattr(engine, f"{side}_dtype").name,
        layout=layout,  # type: ignore[arg-type]
        scale=scale,
        zero_point=zero_point,
    )


def place(artifact: Artifact, path: Path, folder: Path) -> Artifact:
    """Moves the file and then writes its manifest; a file without manifest counts as missing."""
    target = folder / path.name
    manifest_path(target).unlink(missing_ok=True)
    shutil.move(path, target)
    write_artifact(target, artifact)
    return artifact


def discard(file: Path) -> None:
    """Removes a file and its manifest, if they exist."""
    manifest_path(file).unlink(missing_ok=True)
    file.unlink(missing_ok=True)
