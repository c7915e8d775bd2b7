"""The tiny classifier that every engine test runs: mean over the image, then a linear layer with known weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

SIZE = 8
WEIGHT = np.array([[2.0, -1.0, 0.5], [-1.5, 2.5, 0.25], [0.75, -0.5, 3.0]], np.float32)
BIAS = np.array([0.1, -0.2, 0.3], np.float32)
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def expected_logits(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns logits ``(B, 3)`` of images ``(B, H, W, 3)``, in float64 inside."""
    logits: npt.NDArray[np.float32] = (images.astype(np.float64).mean((1, 2)) @ WEIGHT.T + BIAS).astype(np.float32)
    return logits


def write_onnx(path: Path, *, extra_output: bool = False, dtype: str = "float", batch: int | str = "batch") -> Path:
    """Writes the classifier as ONNX, NCHW, and returns ``path``."""
    from onnx import TensorProto, helper, numpy_helper, save

    kind, numpy_kind = (TensorProto.FLOAT, np.float32) if dtype == "float" else (TensorProto.DOUBLE, np.float64)
    outputs = [helper.make_tensor_value_info("logits", kind, [batch, 3])]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("pooled", kind, [batch, 3]))
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["pooled"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["pooled", "weight", "bias"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", kind, [batch, 3, SIZE, SIZE])],
        outputs,
        [
            numpy_helper.from_array(WEIGHT.astype(numpy_kind), "weight"),
            numpy_helper.from_array(BIAS.astype(numpy_kind), "bias"),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
