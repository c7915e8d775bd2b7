"""The tensors and operators of a ``.tflite`` or ``.onnx`` file, read without an engine.

A damaged file may raise any error and take long to read, so files of unknown source are read in a ``Sandbox``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime import ArtifactError, MissingExtraError

Shape = tuple[int, ...]

_MOST_TEXT = 200
"""Longest text that is read of a file's metadata; the rest is left."""


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file.

    Attributes:
        dtype: numpy's name of its type, or the file format's where numpy has none.
        shape: its dimensions, -1 for a free one; None where the file does not say.
        stored: identifier of its bytes in the file, for constants.
        size_bytes: number of these bytes; 0 where none are stored.
        name: its name in the file; empty where the format's key is the name.
        scales: number of its quantisation scales; 0 for floats.
    """

    dtype: str
    shape: Shape | None
    stored: str | None = None
    size_bytes: int = 0
    name: str = ""
    scales: int = 0


@dataclass(frozen=True)
class FileOp:
    """An operator of a file; inputs that are left out are None."""

    kind: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileModel:
    """A file's operators in their order, and its tensors by name.

    Attributes:
        format: name of the format.
        ops: the operators.
        tensors: by name, or by number of graph and tensor.
        inputs: names of the inputs; empty where they were not read.
        outputs: names of the outputs; empty where they were not read.
        metadata: texts of the file's metadata, by name.
    """

    format: str
    ops: tuple[FileOp, ...]
    tensors: Mapping[str, FileTensor]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def tflite_schema() -> Any:
    """Returns the module that reads TFLite's flatbuffers.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "litert") from None
    return schema


def open_tflite(path: Path, data: bytes | bytearray) -> Any:
    """Returns the flatbuffer model in ``data``, the content of ``path``.

    Raises:
        ArtifactError: it is no TFLite file, or has no graph.
    """
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ArtifactError(
            f"{path} is not a TFLite file", expected="the letters TFL3 at its 5th byte", got=bytes(data[4:8])
        )
    model = tflite_schema().Model.GetRootAs(data, 0)
    if not model.SubgraphsLength():
        raise ArtifactError(f"{path} has no graph")
    return model


def op_names(model: Any, data: bytes | bytearray) -> list[str]:
    """Returns TFLite's names of the operator codes of a flatbuffer model."""
    builtin = tflite_schema().BuiltinOperator
    names = {value: name for name, value in vars(builtin).items() if isinstance(value, int)}
    codes = [model.OperatorCodes(i) for i in range(_counted(model.OperatorCodesLength(), data))]
    found = []
    for code in codes:
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = code.CustomCode() if number == builtin.CUSTOM else None
        found.append(_text(custom) if custom else names.get(number, f"operator {number}"))
    return found


def tflite_model(path: Path) -> FileModel:
    """Returns the operators and tensors of a ``.tflite`` file.

    Raises:
        ArtifactError: the file is damaged or of another format.
        MissingExtraError: ai-edge-litert is not installed.
    """
    data = path.read_bytes()
    model = open_tflite(path, data)
    schema = tflite_schema()
    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    sizes = []
    for i in range(_counted(model.BuffersLength(), data)):
        buffer = model.Buffers(i)
        sizes.append(_counted(buffer.DataLength(), data, 1) or (buffer.Size() if buffer.Offset() > 1 else 0))
    codes, tensors, ops = op_names(model, data), {}, []
    for number in range(_counted(model.SubgraphsLength(), data)):
        graph = model.Subgraphs(number)
        for i in range(_counted(graph.TensorsLength(), data)):
            tensor = graph.Tensors(i)
            signature = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
            shape = tuple(int(n) for n in signature) if tensor.ShapeLength() else ()
            size = sizes[tensor.Buffer()]
            dtype = types.get(tensor.Type(), f"type {tensor.Type()}")
            stored = str(tensor.Buffer()) if size else None
            tensors[f"{number}:{i}"] = FileTensor(dtype, shape, stored, size, _text(tensor.Name()), _scales(tensor))
        for i in range(_counted(graph.OperatorsLength(), data)):
            ops.append(_tflite_op(graph.Operators(i), codes, number, schema))
    first = model.Subgraphs(0)
    inputs = tuple(f"0:{first.Inputs(i)}" for i in range(_counted(first.InputsLength(), data)))
    outputs = tuple(f"0:{first.Outputs(i)}" for i in range(_counted(first.OutputsLength(), data)))
    return FileModel("tflite", tuple(ops), tensors, inputs, outputs, _metadata(model, data))


def _scales(tensor: Any) -> int:
    """Returns the number of scales of a tensor; scales of blocks count as one for each block."""
    quantisation = tensor.Quantization()
    if quantisation is None:
        return 0
    return int(quantisation.ScaleLength()) or int(quantisation.DetailsType() != 0)


def _metadata(model: Any, data: bytes) -> dict[str, str]:
    found = {}
    for i in range(_counted(model.MetadataLength(), data)):
        entry = model.Metadata(i)
        buffer = model.Buffers(entry.Buffer())
        size = min(_counted(buffer.DataLength(), data, 1), _MOST_TEXT)
        raw = bytes(buffer.Data(k) for k in range(size))
        found[_text(entry.Name())] = raw.rstrip(b"\0").decode(errors="replace")
    return found


def _tflite_op(operator: Any, codes: list[str], number: int, schema: Any) -> FileOp:
    kind, options = codes[operator.OpcodeIndex()], {}
    if kind == "BATCH_MATMUL" and operator.BuiltinOptionsType() == schema.BuiltinOptions.BatchMatMulOptions:
        stored, table = operator.BuiltinOptions(), schema.BatchMatMulOptions()
        table.Init(stored.Bytes, stored.Pos)
        options = {"transposed_a": bool(table.AdjX()), "transposed_b": bool(table.AdjY())}
    inputs = operator.InputsAsNumpy() if operator.InputsLength() else ()
    outputs = operator.OutputsAsNumpy() if operator.OutputsLength() else ()
    return FileOp(
        kind,
        tuple(f"{number}:{int(i)}" if i >= 0 else None for i in inputs),
        tuple(f"{number}:{int(i)}" for i in outputs),
        options,
    )


def _counted(count: int, data: bytes | bytearray, width: int = 4) -> int:
    """Returns a vector's length, refusing one that its file cannot hold."""
    if count * width > len(data):
        raise ArtifactError(
            "The file is damaged: a list in it is longer than the file",
            expected=f"at most {len(data) // width} entries",
            got=count,
        )
    return count


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")[:200]


def onnx_model(path: Path) -> FileModel:
    """Returns the operators and tensors of a ``.onnx`` file.

    Raises:
        ArtifactError: the file is damaged or of another format, or keeps its weights in other files.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "export") from None
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    if not proto.graph.node:
        raise ArtifactError(f"{path} is not an ONNX file, or has no graph")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _constants(proto.graph)):
        raise ArtifactError(
            f"{path} keeps its weights in other files", expected="one file that holds all", fix="Export it again"
        )
    for info in proto.graph.input:
        for dim in info.type.tensor_type.shape.dim[:1]:
            # a free batch is looked at as one image; sizes that come from it are then known
            dim.dim_value = dim.dim_value or 1
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    tensors: dict[str, FileTensor] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
        tensors[info.name] = FileTensor(_onnx_dtype(kind.elem_type), dims if kind.HasField("shape") else None)
    for tensor in graph.initializer:
        tensors[tensor.name] = _onnx_constant(tensor, tensor.name)
    ops = []
    for node in _nodes(graph):
        options = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        inputs, outputs = tuple(name or None for name in node.input), tuple(filter(None, node.output))
        ops.append(FileOp(node.op_type, inputs, outputs, options))
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.type == onnx.AttributeProto.TENSOR and node.output:
                tensors[node.output[0]] = _onnx_constant(attribute.t, node.output[0])
    return FileModel("onnx", tuple(ops), tensors)


def _nodes(graph: Any) -> Iterator[Any]:
    """Yields the operators of a graph and of the graphs within them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _constants(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in _nodes(graph):
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            if attribute.HasField("g"):
                yield from attribute.g.initializer


def _onnx_constant(tensor: Any, name: str) -> FileTensor:
    size = len(tensor.raw_data) or tensor.ByteSize()
    return FileTensor(_onnx_dtype(tensor.data_type), tuple(tensor.dims), name, size)


def _onnx_dtype(number: int) -> str:
    import onnx

    names = onnx.TensorProto.DataType
    name = names.Name(number).lower() if number in names.values() else f"type {number}"
    return {"float": "float32", "double": "float64"}.get(name, name)
