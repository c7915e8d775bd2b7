"""Small real files with manifests, written straight from random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compress.model.vit import SlicedViT
from export.graph.build import vit_graph
from export.graph.rewrites import DEFAULT_REWRITES, Rewrites
from export.writers.onnx import onnx_bytes
from export.writers.tflite import tflite_bytes
from runtime import (
    Artifact,
    BlockPlan,
    Parity,
    Preprocessing,
    Provenance,
    ShapePlan,
    TensorSpec,
    sha256_of,
    write_artifact,
)

SMALL = ShapePlan((32, 32), (8, 8), 3, 10, 48, (BlockPlan(3, 16, 16, 96), BlockPlan(2, 8, 24, 64)), 0.25)
LEAST = ShapePlan((8, 8), (4, 4), 3, 4, 8, (BlockPlan(1, 8, 8, 16), BlockPlan(2, 8, 8, 8)), 0.25)


def small_model(plan: ShapePlan = SMALL) -> SlicedViT:
    torch.manual_seed(0)
    return SlicedViT(plan).eval()


def small_file(
    path: Path,
    plan: ShapePlan = SMALL,
    rewrites: Rewrites = DEFAULT_REWRITES,
    *,
    half: bool = False,
    manifest: bool = True,
) -> Path:
    """Writes a model with random weights, and its manifest unless told otherwise."""
    onnx = path.suffix == ".onnx"
    graph = vit_graph(small_model(plan), rewrites.flattened() if onnx else rewrites)
    path.write_bytes(onnx_bytes(graph, half) if onnx else tflite_bytes(graph, half))
    if manifest:
        write_artifact(path, artifact_of(path, plan))
    return path


def artifact_of(path: Path, plan: ShapePlan, **changes: Any) -> Artifact:
    onnx = path.suffix == ".onnx"
    (height, width), channels = plan.img_size, plan.in_chans
    shape = (-1, channels, height, width) if onnx else (1, height, width, channels)
    body: dict[str, Any] = {
        "file": path.name,
        "sha256": sha256_of(path),
        "size_bytes": path.stat().st_size,
        "format": path.suffix[1:],
        "precision": "fp32",
        "recipe": "none",
        "plan": plan,
        "preprocessing": Preprocessing(height, width, channels, (0.5,) * channels, (0.5,) * channels),
        "input": TensorSpec("image", shape, "float32", "NCHW" if onnx else "NHWC"),
        "output": TensorSpec("logits", (shape[0], plan.num_classes), "float32", "NC"),
        "class_names": tuple(map(str, range(plan.num_classes))),
        "parity": Parity(16, 0.01, 0.002, 48.5, 1.0, None, None, "no labels"),
        "calibration": None,
        "provenance": Provenance("0.1.0", "random weights", "0" * 64, {"numpy": "2"}),
    }
    return Artifact(**(body | changes))
