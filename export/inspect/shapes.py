"""The shapes of the named tensors in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.graph.file_model import Shape, tflite_schema


def onnx_shapes(path: Path) -> dict[str, Shape]:
    """Returns the shapes of weights by name, as ``(outputs, inputs)``, and of computed tensors."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {
        info.name: tuple(int(dim.dim_value) for dim in info.type.tensor_type.shape.dim) for info in graph.value_info
    }
    for tensor in graph.initializer:
        shape, name = tuple(int(n) for n in tensor.dims), tensor.name.removesuffix(".half")
        # the keys of a single query alone are stored as they are
        keys = len(shape) == 3 and ".attn.k." in name
        shapes[name] = shape if keys or len(shape) < 2 else (*shape[:-2], shape[-1], shape[-2])
    return shapes


def tflite_shapes(path: Path) -> dict[str, Shape]:
    """Returns the shapes of weights by name, as ``(outputs, inputs)``, and of computed tensors."""
    schema = tflite_schema()
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    tensors = model.subgraphs[0].tensors
    return {tensor.name.decode(): tuple(int(n) for n in np.atleast_1d(tensor.shape)) for tensor in tensors}
