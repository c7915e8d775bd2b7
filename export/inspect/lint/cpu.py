"""The rules of LiteRT on the CPU, with its XNNPACK delegate.

Which operators XNNPACK takes is asked of LiteRT itself. The rest is from its source, ``xnnpack_delegate.cc`` and
``reduced_precision_support.h`` in github.com/google-ai-edge/LiteRT (``tflite/delegates/xnnpack`` and
``tflite/tools/optimize``), and ``subgraph.c`` and ``batch-matrix-multiply.c`` in github.com/google/XNNPACK, and was
seen with LiteRT 2.3.0 on an emulated Cortex-A76.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from export.formats.tflite import HALF_ARITHMETIC, HALF_METADATA
from export.graph.file_model import FileModel

from .base import LintedEngine, LintFinding, computed, constants, first_output, label
from .shared_rules import dynamic_shapes, rank_at_most

MOST_DIMENSIONS = 6
"""``XNN_MAX_TENSOR_DIMS`` of XNNPACK."""


def in_half(model: FileModel) -> bool:
    """Returns whether the file's metadata makes XNNPACK compute in float16 on ARM cores that can."""
    allowed = model.metadata.get(HALF_METADATA, "")
    return "fp16" in allowed.partition("acc")[0] and allowed.endswith("accfp16")


def half_metadata(model: FileModel) -> Iterator[LintFinding]:
    """Yields metadata for float16 that has no effect."""
    allowed = model.metadata.get(HALF_METADATA)
    if allowed is not None and not in_half(model):
        cure = f"Write {HALF_ARITHMETIC!r}, or leave the metadata out"
        yield LintFinding("float16", "metadata", HALF_METADATA, f"{allowed!r}, which changes nothing", cure)


def constant_factors(model: FileModel) -> Iterator[LintFinding]:
    """Yields products of matrices with a constant, with which LiteRT refuses to load a file in float16."""
    if not in_half(model):
        return
    known = constants(model)
    for number, op in computed(model):
        if op.kind == "BATCH_MATMUL" and any(key in known for key in op.inputs):
            yield LintFinding(
                "float16",
                label(number, op),
                first_output(model, op).name,
                "a constant factor: LiteRT does not load the file on ARM cores with float16",
                "Write it as FULLY_CONNECTED, or leave out the metadata for float16",
            )


def fused_squares(model: FileModel) -> Iterator[LintFinding]:
    """Yields means of squares, which XNNPACK fuses into an operator without a float16 form."""
    if not in_half(model):
        return
    readers = Counter(key for op in model.ops for key in op.inputs if key is not None)
    squares = {
        op.outputs[0]
        for op in model.ops
        if op.outputs
        and readers[op.outputs[0]] == 1
        and (op.kind == "SQUARE" or (op.kind == "MUL" and op.inputs[0] == op.inputs[1]))
    }
    for number, op in computed(model):
        if op.kind in ("MEAN", "SUM") and op.inputs[0] in squares:
            yield LintFinding(
                "float16",
                label(number, op),
                first_output(model, op).name,
                "a mean of squares: XNNPACK computes it, and all that follows, in float32",
                "Square by SQUARED_DIFFERENCE from 0",
            )


CPU = LintedEngine(
    "cpu",
    "LiteRT on the CPU (XNNPACK)",
    (
        dynamic_shapes,
        rank_at_most(MOST_DIMENSIONS, "XNNPACK takes no more"),
        half_metadata,
        constant_factors,
        fused_squares,
    ),
    delegate=True,
    half=in_half,
    newton=True,
)
