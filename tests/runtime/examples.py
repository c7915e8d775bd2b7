"""The examples that several test modules start from, and then spoil in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime import (
    Artifact,
    BlockPlan,
    Calibration,
    Parity,
    Preprocessing,
    Provenance,
    ShapePlan,
    TensorSpec,
    sha256_of,
    write_artifact,
)

from .tiny import SIZE

CLASS_NAMES = ("red", "green", "blue")


def tiny_plan(**changes: Any) -> ShapePlan:
    """Returns a valid plan for the tiny classifier's images."""
    plan: dict[str, Any] = {
        "img_size": (SIZE, SIZE),
        "patch_size": (4, 4),
        "in_chans": 3,
        "num_classes": 3,
        "embed_dim": 16,
        "blocks": (BlockPlan(2, 8, 8, 32), BlockPlan(1, 8, 16, 24)),
        "attn_scale": 0.25,
    }
    return ShapePlan(**(plan | changes))


def tiny_preprocessing(**changes: Any) -> Preprocessing:
    """Returns a spec that maps pixels to -1..1."""
    spec: dict[str, Any] = {
        "height": SIZE,
        "width": SIZE,
        "channels": 3,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    return Preprocessing(**(spec | changes))


def tiny_artifact(file: Path, input_spec: TensorSpec, output_spec: TensorSpec, **changes: Any) -> Artifact:
    """Returns a manifest that fits ``file`` as it is now."""
    body: dict[str, Any] = {
        "file": file.name,
        "sha256": sha256_of(file),
        "size_bytes": file.stat().st_size,
        "format": file.suffix[1:],
        "precision": "fp32" if input_spec.dtype == "float32" else "int8-full",
        "recipe": "none",
        "plan": tiny_plan(),
        "preprocessing": tiny_preprocessing(),
        "input": input_spec,
        "output": output_spec,
        "class_names": CLASS_NAMES,
        "parity": Parity(16, 0.01, 0.002, 48.5, 1.0, None, None, "no labels"),
        "calibration": Calibration("synthetic", "train", 16, 0),
        "provenance": Provenance("0.1.0", "a linear layer", "0" * 64, {"numpy": "2"}),
    }
    return Artifact(**(body | changes))


FLOAT_IN = TensorSpec("images", (1, SIZE, SIZE, 3), "float32", "NHWC")
FLOAT_OUT = TensorSpec("logits", (1, 3), "float32", "NC")


def written_artifact(folder: Path, data: bytes = b"the bytes of a model" * 20, **changes: Any) -> Path:
    """Writes a file that no engine reads, with its manifest, and returns the file."""
    file = folder / "model.tflite"
    file.write_bytes(data)
    write_artifact(file, tiny_artifact(file, FLOAT_IN, FLOAT_OUT, **changes))
    return file


def edited(path: Path, *keys: str | int, value: Any) -> None:
    """Overwrites one value, named by the keys that lead to it, in a JSON file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document), encoding="utf-8")
