"""The rules of compilers for NPUs: int8 throughout, with ranges that are known before the run.

Types, scales and zero points are those of LiteRT's 8-bit specification,
``tflite/g3doc/performance/quantization_spec.md`` in github.com/google-ai-edge/LiteRT: int8 activations with one scale
for each tensor, and symmetric int8 weights with one scale for each output. The operators are those whose kernels take
int8 there (``tflite/kernels``).
"""

from __future__ import annotations

from collections.abc import Iterator

from export.graph.file_model import FileModel

from .base import LintedEngine, LintFinding, computed, constants, first_output, label
from .shared_rules import dynamic_shapes, operators_among, rank_at_most

MOST_DIMENSIONS = 4

OPERATORS = frozenset(
    """
    ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND CONCATENATION CONV_2D DEPTHWISE_CONV_2D
    DEPTH_TO_SPACE DEQUANTIZE DIV ELU EQUAL EXP EXPAND_DIMS FULLY_CONNECTED GATHER GELU GREATER GREATER_EQUAL HARD_SWISH
    L2_NORMALIZATION LEAKY_RELU LESS LESS_EQUAL LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT SHAPE SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V
    SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNPACK
    """.split()
)

_LINEAR = {"FULLY_CONNECTED": 0, "CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""Operators with weights, with the dimension of the weights that counts their outputs."""

_FLOATS = ("float32", "float16", "float64")
_STATIC = "Export it with --for static-int8"


def sides(model: FileModel) -> Iterator[LintFinding]:
    """Yields inputs and outputs that are not int8 or uint8."""
    for side, keys in (("input", model.inputs), ("output", model.outputs)):
        for key in keys:
            tensor = model.tensors[key]
            if tensor.dtype not in ("int8", "uint8"):
                yield LintFinding("type", side, tensor.name, f"{tensor.dtype}, not int8 or uint8", _STATIC)


def dynamic_ranges(model: FileModel) -> Iterator[LintFinding]:
    """Yields operators with integer weights and a float input, which is quantised as it comes."""
    for number, op in computed(model):
        if _is_hybrid(model, *op.inputs[:2]) and op.kind in (*_LINEAR, "BATCH_MATMUL"):
            found = "integer weights with a float input (dynamic range)"
            yield LintFinding("dynamic range", label(number, op), first_output(model, op).name, found, _STATIC)


def _is_hybrid(model: FileModel, x: str | None = None, weight: str | None = None) -> bool:
    if x is None or weight is None:
        return False
    return model.tensors[x].dtype in _FLOATS and model.tensors[weight].dtype.startswith(("int", "uint"))


def float_islands(model: FileModel) -> Iterator[LintFinding]:
    """Yields operators that read or write floats, apart from those of ``dynamic_ranges``."""
    for number, op in computed(model):
        if op.kind in (*_LINEAR, "BATCH_MATMUL") and _is_hybrid(model, *op.inputs[:2]):
            continue
        floats = [
            tensor
            for key in (*op.inputs, *op.outputs)
            if key is not None and (tensor := model.tensors[key]).dtype in _FLOATS
        ]
        if floats:
            found = f"{floats[0].dtype}: the compiler leaves it to the CPU or refuses the file"
            yield LintFinding("float island", label(number, op), floats[0].name, found, _STATIC)


def other_integers(model: FileModel) -> Iterator[LintFinding]:
    """Yields operators that compute with integers of 4 or 16 bits."""
    for number, op in computed(model):
        for key in (*op.inputs, *op.outputs):
            tensor = model.tensors.get(key) if key is not None else None
            if tensor is not None and tensor.dtype in ("int4", "uint4", "int2", "int16"):
                yield LintFinding("type", label(number, op), tensor.name, f"{tensor.dtype}, not int8", _STATIC)
                break


def single_scales(model: FileModel) -> Iterator[LintFinding]:
    """Yields weights with one scale for all of several outputs."""
    known = constants(model)
    for number, op in computed(model):
        axis, key = _LINEAR.get(op.kind), op.inputs[1] if len(op.inputs) > 1 else None
        if axis is None or key is None or key not in known:
            continue
        tensor = model.tensors[key]
        if tensor.scales == 1 and tensor.shape and len(tensor.shape) > axis and tensor.shape[axis] > 1:
            found = f"weights with one scale for {tensor.shape[axis]} outputs"
            yield LintFinding("per-tensor weights", label(number, op), tensor.name, found, _STATIC)


STATIC_INT8 = LintedEngine(
    "static-int8",
    "static int8, for NPU compilers",
    (
        sides,
        dynamic_ranges,
        float_islands,
        other_integers,
        single_scales,
        operators_among(OPERATORS, "Write it with other operators: LiteRT has no int8 kernel for this one"),
        rank_at_most(MOST_DIMENSIONS, "NPU compilers leave more to the CPU"),
        dynamic_shapes,
    ),
)
