"""The rules of LiteRT's GPU path.

The operators are those of ``CheckGpuDelegateCompatibility`` in ``tflite/tools/versioning/gpu_compatibility.cc`` and
of ``tflite/delegates/gpu/common/model_builder.cc`` in github.com/google-ai-edge/LiteRT. The rule about constants was
found by running single operators of LiteRT 2.3.0 over a software GPU and comparing them with the CPU: of 17 forms of
constants the 7 that break it were wrong by half of the largest value and more, and all others exact.
"""

from __future__ import annotations

from collections.abc import Iterator

from export.graph.file_model import FileModel

from .base import LintedEngine, LintFinding, computed, constants, first_output, label
from .shared_rules import dynamic_shapes, operators_among, rank_at_most

MOST_DIMENSIONS = 4

OPERATORS = frozenset(
    """
    ABS ADD ADD_N ATAN2 AVERAGE_POOL_2D BATCH_MATMUL BITCAST CAST CEIL CONCATENATION CONV_2D COS CUMSUM DENSIFY
    DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV
    FLOOR_MOD FULLY_CONNECTED GATHER GELU GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND
    LOGICAL_NOT LOGICAL_OR LOGISTIC LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD
    PADV2 POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_0_TO_1
    RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RIGHT_SHIFT ROUND RSQRT SELECT SELECT_V2
    SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE
    TOPK_V2 TRANSPOSE TRANSPOSE_CONV UNPACK
    """.split()
)

PAIRS = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE")


def constants_with_rows(model: FileModel) -> Iterator[LintFinding]:
    """Yields elementwise operators with a constant of 1 to 3 dimensions and more than one entry in its first.

    The first dimension is the batch there, and the GPU path reads constants without a batch. It broadcasts a constant
    of fewer dimensions than the output rightly.
    """
    known = constants(model)
    for number, op in computed(model):
        shape = first_output(model, op).shape
        if op.kind not in PAIRS or shape is None or len(shape) > 3:
            continue
        for key in op.inputs:
            tensor = model.tensors.get(key) if key is not None and key in known else None
            if tensor is not None and tensor.shape and len(tensor.shape) == len(shape) and tensor.shape[0] > 1:
                yield LintFinding(
                    "batch",
                    label(number, op),
                    first_output(model, op).name,
                    f"the constant {tensor.name!r} of shape {tensor.shape}: the GPU computes other values",
                    f"Put a batch dimension in front: {(1, *shape)}",
                )


def slices(model: FileModel) -> Iterator[LintFinding]:
    """Yields slices of tensors without 3 or 4 dimensions."""
    for number, op in computed(model):
        tensor = model.tensors.get(op.inputs[0] or "") if op.inputs else None
        if op.kind in ("SLICE", "STRIDED_SLICE") and tensor is not None and len(tensor.shape or ()) not in (3, 4):
            yield LintFinding(
                "rank",
                label(number, op),
                tensor.name,
                f"the shape {tensor.shape}",
                "Slice a tensor of 3 or 4 dimensions: older GPU delegates take no other",
            )


def wide_integers(model: FileModel) -> Iterator[LintFinding]:
    """Yields operators that compute with 16-bit integers."""
    for number, op in computed(model):
        tensor = first_output(model, op)
        if tensor.dtype == "int16":
            cure = "Export it as fp32, fp16, int8 or int8-full"
            yield LintFinding("type", label(number, op), tensor.name, "int16, which the GPU does not dequantise", cure)


GPU = LintedEngine(
    "gpu",
    "LiteRT's GPU path",
    (
        rank_at_most(MOST_DIMENSIONS, "LiteRT does not compile the file for the GPU otherwise"),
        constants_with_rows,
        operators_among(OPERATORS, "Write it with other operators; LiteRT computes this one on the CPU, or refuses"),
        slices,
        dynamic_shapes,
        wide_integers,
    ),
    half=lambda _: True,
)
