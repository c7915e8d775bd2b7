"""The contents of a file: operators with precision and MACs, and bytes by kind of tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from export.graph.file_model import FileModel, FileOp, FileTensor, Shape
from runtime import ArtifactError

TensorKind = Literal["weights", "biases", "other constants", "structure"]

_INT64 = 2**63 - 1


@dataclass(frozen=True)
class OpRow:
    """Operators of one type and precision.

    Attributes:
        kind: name of the type in the format.
        precision: types of the inputs, of the weights where they differ, and of the output where it differs.
        count: number of operators.
        macs: multiply-accumulates of one image, 0 for types without; None where a shape is not in the file.
    """

    kind: str
    precision: str
    count: int
    macs: int | None


@dataclass(frozen=True)
class SizeRow:
    """Bytes of the file that hold one kind of tensor in one type; ``structure`` is all the rest."""

    kind: TensorKind
    dtype: str | None
    tensors: int | None
    size_bytes: int


@dataclass(frozen=True)
class Contents:
    """Operators and sizes of a file.

    Attributes:
        ops: most MACs first.
        sizes: weights, biases, other constants, structure; they add up to the file.
    """

    format: str
    size_bytes: int
    ops: tuple[OpRow, ...]
    sizes: tuple[SizeRow, ...]


@dataclass(frozen=True)
class _Linear:
    """Positions of the operands among the inputs of an operator that multiplies."""

    x: int = 0
    weight: int = 1
    bias: int | None = None


_LINEAR: Mapping[str, _Linear] = {
    "FULLY_CONNECTED": _Linear(bias=2),
    "CONV_2D": _Linear(bias=2),
    "DEPTHWISE_CONV_2D": _Linear(bias=2),
    "BATCH_MATMUL": _Linear(),
    "MatMul": _Linear(),
    "FusedMatMul": _Linear(),
    "Gemm": _Linear(bias=2),
    "Conv": _Linear(bias=2),
    "MatMulInteger": _Linear(),
    "ConvInteger": _Linear(),
    "QLinearMatMul": _Linear(weight=3),
    "QLinearConv": _Linear(weight=3, bias=8),
    "DynamicQuantizeMatMul": _Linear(bias=4),
    "MatMulIntegerToFloat": _Linear(bias=6),
    "linear": _Linear(bias=2),
    "conv2d": _Linear(bias=2),
    "matmul": _Linear(),
}
_WIDENS = ("DEQUANTIZE", "DequantizeLinear", "Cast", "Transpose", "TRANSPOSE", "CAST")
"""Through these, a constant is still the weight of the operator that reads it."""


def summarise_contents(model: FileModel, size_bytes: int) -> Contents:
    """Returns operators by type and precision, and bytes by kind of tensor.

    Args:
        model: operators and tensors of the file.
        size_bytes: of the file.

    Raises:
        ArtifactError: the shapes are impossible.
    """
    reader = _Reader(model)
    counts: Counter[tuple[str, str]] = Counter()
    macs: dict[tuple[str, str], int | None] = {}
    for op in model.ops:
        row = (op.kind, reader.precision(op))
        counts[row] += 1
        known, more = macs.get(row, 0), reader.macs(op)
        macs[row] = None if known is None or more is None else known + more
    ops = [OpRow(*row, count, macs[row]) for row, count in counts.items()]
    if any((row.macs or 0) > _INT64 for row in ops):
        raise ArtifactError("The shapes in the file are impossible", expected="MACs that fit 64 bits")
    ops.sort(key=lambda row: (-(row.macs or 0), -row.count, row.kind, row.precision))
    return Contents(model.format, size_bytes, tuple(ops), reader.sizes(size_bytes))


class _Reader:
    def __init__(self, model: FileModel) -> None:
        self.model, self.tensors = model, model.tensors
        self.writer = {name: op for op in model.ops for name in op.outputs}

    def tensor(self, name: str | None) -> FileTensor | None:
        return self.tensors.get(name) if name is not None else None

    def operand(self, op: FileOp, index: int | None) -> str | None:
        return op.inputs[index] if index is not None and index < len(op.inputs) else None

    def constant(self, name: str | None) -> FileTensor | None:
        """Returns the stored tensor of the name, or the one it is converted from."""
        for _ in range(4):
            tensor = self.tensor(name)
            if tensor is not None and tensor.stored is not None:
                return tensor
            op = self.writer.get(name) if name is not None else None
            if op is None or op.kind not in _WIDENS or not op.inputs:
                return None
            name = op.inputs[0]
        return None

    def precision(self, op: FileOp) -> str:
        linear = _LINEAR.get(op.kind)
        outs = self.dtypes(op.outputs[:1])
        if linear is None or not op.inputs:
            flowing = [name for name in op.inputs if (tensor := self.tensor(name)) is None or tensor.stored is None]
            ins = self.dtypes([name for name in flowing if name is not None])
            # sizes and axes that are computed say nothing about precision
            ins = [name for name in ins if name not in ("int32", "int64")] or ins
            ins = ins or self.dtypes([name for name in op.inputs[:1] if name is not None])
            return _arrow(", ".join(ins) or "unknown", outs)
        x, name = op.inputs[linear.x], self.operand(op, linear.weight)
        ins = self.dtypes([x] if x is not None else [])
        stored, weight = self.constant(name), self.tensor(name)
        text = ", ".join(ins) or "unknown"
        if stored is not None and [stored.dtype] != ins:
            direct = weight is not None and weight.stored is not None
            dynamic = direct and text.startswith("float") and stored.dtype.startswith(("int", "uint"))
            text += f", {stored.dtype} weights{' (dynamic)' if dynamic else ''}"
        return _arrow(text, outs)

    def dtypes(self, names: list[str] | tuple[str, ...]) -> list[str]:
        found = [tensor.dtype for name in names if (tensor := self.tensor(name)) is not None]
        return list(dict.fromkeys(found))

    def macs(self, op: FileOp) -> int | None:
        linear = _LINEAR.get(op.kind)
        if linear is None:
            return 0
        shapes = [
            None if tensor is None or tensor.shape is None else tuple(1 if n < 0 else n for n in tensor.shape)
            for tensor in (self.tensor(self.operand(op, i)) for i in (linear.x, linear.weight))
        ]
        out = self.tensor(op.outputs[0]) if op.outputs else None
        outputs = None if out is None or out.shape is None else math.prod(1 if n < 0 else n for n in out.shape)
        x, weight = shapes
        if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "Conv", "QLinearConv", "ConvInteger", "conv2d"):
            if weight is None or len(weight) < 3 or outputs is None:
                return None
            each = weight[1:3] if op.kind == "DEPTHWISE_CONV_2D" else weight[1:]
            return outputs * math.prod(each)
        if x is None or weight is None or not x or not weight:
            return None
        if op.kind in ("FULLY_CONNECTED", "linear"):
            return None if outputs is None else outputs * weight[-1]
        return _product_macs(op, x, weight)

    def sizes(self, size_bytes: int) -> tuple[SizeRow, ...]:
        kinds: dict[str, TensorKind] = {}
        for op in self.model.ops:
            linear = _LINEAR.get(op.kind)
            if linear is not None:
                for index in (linear.x, linear.weight):
                    self.put(kinds, self.operand(op, index), "weights")
                self.put(kinds, self.operand(op, linear.bias), "biases")
            elif op.kind == "Add" and any(self.is_product(name) for name in op.inputs):
                for name in op.inputs:
                    self.put(kinds, name, "biases")
        stored = {tensor.stored: tensor for tensor in self.tensors.values() if tensor.stored is not None}
        found: Counter[tuple[TensorKind, str]] = Counter()
        counts: Counter[tuple[TensorKind, str]] = Counter()
        for place, tensor in stored.items():
            row = (kinds.get(place, "other constants"), tensor.dtype)
            found[row] += tensor.size_bytes
            counts[row] += 1
        rest = size_bytes - sum(found.values())
        if rest < 0:
            raise ArtifactError(
                "The file is damaged: its tensors take more than the file",
                expected=f"at most {size_bytes} bytes",
                got=f"{sum(found.values())} bytes",
            )
        order = ("weights", "biases", "other constants")
        rows = sorted(found, key=lambda row: (order.index(row[0]), -found[row], row[1]))
        return (*(SizeRow(*row, counts[row], found[row]) for row in rows), SizeRow("structure", None, None, rest))

    def put(self, kinds: dict[str, TensorKind], name: str | None, kind: TensorKind) -> None:
        tensor = self.constant(name)
        if tensor is not None and tensor.stored is not None:
            kinds.setdefault(tensor.stored, kind)

    def is_product(self, name: str | None) -> bool:
        op = self.writer.get(name) if name is not None else None
        return op is not None and op.kind in _LINEAR


def _product_macs(op: FileOp, a: Shape, b: Shape) -> int | None:
    """Returns the MACs of a product of matrices, whose leading dimensions broadcast."""
    if op.options.get("transposed_a") or op.options.get("transA"):
        a = (*a[:-2], a[-1], a[-2]) if len(a) > 1 else a
    if op.options.get("transposed_b") or op.options.get("transB"):
        b = (*b[:-2], b[-1], b[-2]) if len(b) > 1 else b
    rows, columns = a[-2] if len(a) > 1 else 1, b[-1] if len(b) > 1 else 1
    lead_a, lead_b = a[:-2][::-1], b[:-2][::-1]
    lead = [
        max(lead_a[i] if i < len(lead_a) else 1, lead_b[i] if i < len(lead_b) else 1)
        for i in range(max(len(lead_a), len(lead_b)))
    ]
    return math.prod(lead) * rows * a[-1] * columns


def _arrow(text: str, outs: list[str]) -> str:
    """Returns ``text``, and the type of the output where it is another."""
    return text if not outs or text.split(", ")[0] == outs[0] else f"{text} -> {outs[0]}"
