"""Makes the models that a machine's peak arithmetic is measured with: ``device_bench/metrics/peak_models``.

They are chains of equal matrix products. The weights are a Hadamard matrix, tiled: its entries are of one size, so that
values neither grow nor vanish on their way, and they repeat, so that the files compress to a few kB.

    python benchmarks/make_peak_models.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from device_bench.metrics.peaks import LAYERS, MODELS, ROWS, WIDTH
from export.graph.ir import Builder
from export.quantise.calibrate import TensorStats
from export.quantise.integer import quantise_graph
from export.quantise.recipes import Ranges
from export.writers.tflite import tflite_bytes

FOLDER = Path(__file__).resolve().parents[1] / "device_bench" / "metrics" / "peak_models"
_SCALE = 1 / 32
_FILES = [name for names in MODELS.values() for name in names]


def main() -> None:
    """Writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        content = model_bytes(name)
        (folder / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes")


def model_bytes(name: str) -> bytes:
    """Returns the content of the file of that name."""
    kind, suffix = name.split(".")
    return _tflite(kind) if suffix == "tflite" else _onnx(kind)


def weights() -> npt.NDArray[np.float64]:
    """Returns ``(WIDTH, WIDTH)`` weights of one size, whose products with unit rows have unit length or less."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < 128:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    tiles = WIDTH // len(hadamard)
    return np.tile(hadamard, (tiles, tiles)) / (len(hadamard) ** 0.5 * tiles)


def _tflite(kind: str) -> bytes:
    builder = Builder((1, ROWS, WIDTH), "x")
    weight, value = builder.constant("weights", weights()), "x"
    for layer in range(LAYERS):
        value = builder.op("fully_connected", [value, weight], f"product.{layer}", act="none")
    graph = builder.graph(value)
    if kind != "fp32":
        one = TensorStats(-4.0, 4.0, np.ones(1), np.zeros(1), np.zeros(1, np.float32))
        modes = dict.fromkeys((op.output for op in graph.ops), "integer" if kind == "int8-static" else "dynamic")
        graph = quantise_graph(graph, modes, dict.fromkeys(graph.shapes, one), Ranges(outside=kind == "int8-static"))
    return tflite_bytes(graph)


def _onnx(kind: str) -> bytes:
    matrix = weights()
    size = float(np.abs(matrix).max())
    constants: dict[str, npt.NDArray[Any]] = {"weights": np.sign(matrix).astype(np.int8) * np.int8(127)}
    constants |= {"weight_scale": np.float32(size / 127), "weight_zero": np.int8(0)}  # type: ignore[dict-item]
    if kind == "fp32":
        constants = {"weights": matrix.astype(np.float32)}
    if kind == "int8-static":
        constants |= {"scale": np.float32(_SCALE), "zero": np.uint8(128)}  # type: ignore[dict-item]
    nodes, value = [], "x"
    for layer in range(LAYERS):
        after = f"product.{layer}"
        nodes += _NODES[kind](value, after)
        value = after
    element = TensorProto.UINT8 if kind == "int8-static" else TensorProto.FLOAT
    shape = (1, ROWS, WIDTH)
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info(value, element, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "PocketViT"
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _float(x: str, y: str) -> list[Any]:
    return [helper.make_node("MatMul", [x, "weights"], [y])]


def _static(x: str, y: str) -> list[Any]:
    grid = ["scale", "zero"]
    return [helper.make_node("QLinearMatMul", [x, *grid, "weights", "weight_scale", "weight_zero", *grid], [y])]


def _dynamic(x: str, y: str) -> list[Any]:
    """ONNX Runtime makes one operator of these five."""
    q, scale, zero, product, floats, both = (f"{y}.{name}" for name in ("q", "s", "z", "int", "float", "scale"))
    return [
        helper.make_node("DynamicQuantizeLinear", [x], [q, scale, zero]),
        helper.make_node("MatMulInteger", [q, "weights", zero, "weight_zero"], [product]),
        helper.make_node("Cast", [product], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, "weight_scale"], [both]),
        helper.make_node("Mul", [floats, both], [y]),
    ]


_NODES = {"fp32": _float, "int8-static": _static, "int8-dynamic": _dynamic}


if __name__ == "__main__":
    main()
