"""Writes a graph as a TFLite file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.ir import Graph, Op, QParams
from runtime import MissingExtraError

_ALIGNMENT = 16
_OPERATORS = {
    "fully_connected": ("FULLY_CONNECTED", 5),
    "conv_2d": ("CONV_2D", 5),
    "conv": ("CONV_2D", 5),
    "depthwise": ("DEPTHWISE_CONV_2D", 3),
    "pad": ("PAD", 2),
    "max_pool": ("MAX_POOL_2D", 2),
    "batch_matmul": ("BATCH_MATMUL", 4),
    "add": ("ADD", 2),
    "sub": ("SUB", 2),
    "mul": ("MUL", 2),
    "squared_difference": ("SQUARED_DIFFERENCE", 2),
    "softmax": ("SOFTMAX", 2),
    "gelu": ("GELU", 1),
    "logistic": ("LOGISTIC", 2),
    "tanh": ("TANH", 2),
    "relu": ("RELU", 2),
    "rsqrt": ("RSQRT", 2),
    "mean": ("MEAN", 2),
    "reshape": ("RESHAPE", 1),
    "transpose": ("TRANSPOSE", 2),
    "concatenation": ("CONCATENATION", 2),
    "slice": ("SLICE", 2),
    "quantize": ("QUANTIZE", 2),
    "dequantize": ("DEQUANTIZE", 2),
}
"""TFLite's name and the version of each kind; the version is that of the int8 form, which reads float as well."""


def tflite_bytes(graph: Graph, half: bool = False, metadata: Mapping[str, bytes] | None = None) -> bytes:
    """Returns ``graph`` as the content of a ``.tflite`` file.

    Args:
        graph: its tensors with ``qparams`` are stored as integers, all others as float32.
        half: store float weights of two dimensions and more as float16; the engine widens them when it loads the file.
        metadata: entries of the file's metadata, by name.

    Raises:
        MissingExtraError: ai-edge-litert or flatbuffers is not installed.
    """
    return _Writer(graph, half, metadata or {}).content()


class _Writer:
    def __init__(self, graph: Graph, half: bool, metadata: Mapping[str, bytes]) -> None:
        try:
            import flatbuffers
            from ai_edge_litert import schema_py_generated as schema
        except ImportError as error:
            raise MissingExtraError(error.name or "flatbuffers", "export") from None
        self.flatbuffers, self.schema, self.graph, self.half = flatbuffers, schema, graph, half
        self.metadata = metadata
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.index: dict[str, int] = {}
        self.int_constants: dict[tuple[int, ...], int] = {}
        self.codes: dict[str, int] = {}
        self.operators: list[Any] = []

    def content(self) -> bytes:
        schema, graph = self.schema, self.graph
        self.activation(graph.input)
        for op in graph.ops:
            self.add(op)
        subgraph = schema.SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = b"main", self.tensors, self.operators
        subgraph.inputs = np.array([self.index[graph.input]], np.int32)
        subgraph.outputs = np.array([self.index[graph.output]], np.int32)
        model = schema.ModelT()
        model.version, model.description = 3, b"PocketViT"
        if self.metadata:
            model.metadata = [self.entry(name, value) for name, value in self.metadata.items()]
        model.subgraphs, model.buffers = [subgraph], self.buffers
        model.operatorCodes = [operator_code(schema, kind) for kind in self.codes]
        model.signatureDefs = [self.signature()]
        builder = self.flatbuffers.Builder(1024 + sum(len(b.data) for b in self.buffers if b.data is not None))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def signature(self) -> Any:
        schema, graph = self.schema, self.graph
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        for side, name in (("inputs", graph.input), ("outputs", graph.output)):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), self.index[name]
            setattr(signature, side, [entry])
        return signature

    def entry(self, name: str, value: bytes) -> Any:
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name.encode(), self.buffer(np.frombuffer(value, np.uint8))
        return entry

    def add(self, op: Op) -> None:
        schema = self.schema
        inputs = [self.constant(name) if name in self.graph.constants else self.index[name] for name in op.inputs]
        kind, fill = _OPTIONS[op.kind]
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.setdefault(op.kind, len(self.codes))
        if kind is not None:
            options = getattr(schema, f"{kind}T")()
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
            fill(options, op, schema, self)
        inputs += [self.integers(values) for values in _integers(op, len(self.graph.shapes[op.inputs[0]]))]
        if op.kind == "pad":
            inputs.append(self.margins(op.options["padding"]))
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([self.activation(op.output)], np.int32)
        self.operators.append(operator)

    def activation(self, name: str) -> int:
        tensor = self.tensor(name, self.graph.shapes[name], self.graph.qparams.get(name))
        self.tensors.append(tensor)
        return self.index.setdefault(name, len(self.tensors) - 1)

    def constant(self, name: str) -> int:
        if name in self.index:
            return self.index[name]
        value, qparams = self.graph.constants[name], self.graph.qparams.get(name)
        if qparams is None and self.half and value.ndim > 1 and value.size > 1:
            return self.halved(name, value)
        tensor = self.tensor(name, value.shape, qparams)
        stored = value.astype(np.float32) if qparams is None else qparams.stored(value)
        if qparams is not None and qparams.block is not None:
            stored, tensor.quantization = _packed(stored), self.blockwise(name, value.shape, qparams)
        tensor.buffer = self.buffer(stored)
        self.tensors.append(tensor)
        return self.index.setdefault(name, len(self.tensors) - 1)

    def blockwise(self, name: str, shape: tuple[int, ...], qparams: QParams) -> Any:
        """Adds the scales of blocks as a tensor of their own, and returns what refers to it."""
        schema = self.schema
        scales = self.tensor(f"{name}.scales", (shape[0], len(qparams.scale) // shape[0]), None)
        scales.type = schema.TensorType.FLOAT16
        scales.buffer = self.buffer(np.array(qparams.scale, np.float16))
        self.tensors.append(scales)
        details = schema.BlockwiseQuantizationT()
        details.scales, details.zeroPoints, details.blockSize = len(self.tensors) - 1, -1, qparams.block
        quantization = schema.QuantizationParametersT()
        quantization.detailsType, quantization.details = schema.QuantizationDetails.BlockwiseQuantization, details
        return quantization

    def halved(self, name: str, value: npt.NDArray[Any]) -> int:
        schema = self.schema
        small = self.tensor(f"{name}.half", value.shape, None)
        small.type, small.buffer = schema.TensorType.FLOAT16, self.buffer(value.astype(np.float16))
        self.tensors.append(small)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.setdefault("dequantize", len(self.codes))
        operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        operator.builtinOptions = schema.DequantizeOptionsT()
        operator.inputs = np.array([len(self.tensors) - 1], np.int32)
        self.tensors.append(self.tensor(name, value.shape, None))
        self.index[name] = len(self.tensors) - 1
        operator.outputs = np.array([self.index[name]], np.int32)
        self.operators.append(operator)
        return self.index[name]

    def integers(self, values: tuple[int, ...]) -> int:
        """Adds an int32 vector of sizes or axes; equal ones are stored once."""
        if values not in self.int_constants:
            tensor = self.schema.TensorT()
            tensor.name, tensor.type = b"sizes.%d" % len(self.int_constants), self.schema.TensorType.INT32
            tensor.shape, tensor.hasRank = np.array([len(values)], np.int32), True
            tensor.buffer = self.buffer(np.array(values, np.int32))
            self.tensors.append(tensor)
            self.int_constants[values] = len(self.tensors) - 1
        return self.int_constants[values]

    def margins(self, padding: tuple[int, int, int, int]) -> int:
        """Adds the zeros before and behind each dimension of maps ``(1, H, W, C)``; equal ones are stored once."""
        top, bottom, left, right = padding
        rows = ((0, 0), (top, bottom), (left, right), (0, 0))
        key = tuple(value for row in rows for value in row)
        if key not in self.int_constants:
            self.integers(key)
            self.tensors[self.int_constants[key]].shape = np.array([4, 2], np.int32)
        return self.int_constants[key]

    def tensor(self, name: str, shape: tuple[int, ...], qparams: QParams | None) -> Any:
        schema = self.schema
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank = name.encode(), np.array(shape, np.int32), True
        tensor.type = getattr(schema.TensorType, "FLOAT32" if qparams is None else qparams.dtype.upper())
        if qparams is not None and qparams.block is None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array(qparams.scale, np.float32)
            tensor.quantization.zeroPoint = np.full(len(qparams.scale), qparams.zero_point, np.int64)
            tensor.quantization.quantizedDimension = 0 if qparams.axis is None else qparams.axis % len(shape)
        return tensor

    def buffer(self, value: npt.NDArray[Any]) -> int:
        buffer = aligned_buffer(self.schema)()
        buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self.buffers.append(buffer)
        return len(self.buffers) - 1


def _packed(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns integers of -8 to 7, two in a byte, the first in its low bits."""
    bits = values.reshape(-1).astype(np.uint8) & 15
    return (bits[0::2] | (bits[1::2] << 4)).astype(np.uint8)


def operator_code(schema: Any, kind: str) -> Any:
    """Returns the entry of a file's list of operators for a kind of operator, such as ``softmax``."""
    name, version = _OPERATORS[kind]
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    return code


def aligned_buffer(schema: Any) -> Any:
    """Returns a buffer type whose data starts at a multiple of 16 bytes, as engines that map the file expect."""

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802
            size = len(self.data)
            builder.StartVector(1, size, _ALIGNMENT)
            builder.head -= size
            builder.Bytes[builder.head : builder.head + size] = self.data.tobytes()
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return Aligned


Fill = Callable[[Any, Op, Any, _Writer], None]


def _fully_connected(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.keepNumDims = True
    types = schema.ActivationFunctionType
    options.fusedActivationFunction = types.RELU if op.options.get("act") == "relu" else types.NONE
    # a float input with int8 weights: the engine quantises the input row by row as it comes
    options.asymmetricQuantizeInputs = op.inputs[0] not in writer.graph.qparams


def _conv(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = op.options["stride"]
    options.dilationHFactor = options.dilationWFactor = 1


def _depthwise(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    _conv(options, op, schema, writer)
    options.depthMultiplier = 1


def _max_pool(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = op.options["stride"]
    options.filterHeight, options.filterWidth = op.options["kernel"]


def _matmul(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.adjX, options.adjY = False, bool(op.options.get("adj_y"))
    options.asymmetricQuantizeInputs = False


def _softmax(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.beta = 1.0


def _gelu(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.approximate = bool(op.options.get("approximate"))


def _mean(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.keepDims = True


def _concatenation(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    options.axis = op.options["axis"] % len(writer.graph.shapes[op.inputs[0]])


def _nothing(options: Any, op: Op, schema: Any, writer: _Writer) -> None:
    return


_OPTIONS: Mapping[str, tuple[str | None, Fill]] = {
    "fully_connected": ("FullyConnectedOptions", _fully_connected),
    "conv_2d": ("Conv2DOptions", _conv),
    "conv": ("Conv2DOptions", _conv),
    "depthwise": ("DepthwiseConv2DOptions", _depthwise),
    "pad": ("PadOptions", _nothing),
    "max_pool": ("Pool2DOptions", _max_pool),
    "batch_matmul": ("BatchMatMulOptions", _matmul),
    "add": ("AddOptions", _nothing),
    "sub": ("SubOptions", _nothing),
    "mul": ("MulOptions", _nothing),
    "squared_difference": ("SquaredDifferenceOptions", _nothing),
    "softmax": ("SoftmaxOptions", _softmax),
    "gelu": ("GeluOptions", _gelu),
    "logistic": (None, _nothing),
    "tanh": (None, _nothing),
    "relu": (None, _nothing),
    "rsqrt": (None, _nothing),
    "mean": ("ReducerOptions", _mean),
    "reshape": ("ReshapeOptions", _nothing),
    "transpose": ("TransposeOptions", _nothing),
    "concatenation": ("ConcatenationOptions", _concatenation),
    "slice": ("SliceOptions", _nothing),
    "quantize": ("QuantizeOptions", _nothing),
    "dequantize": ("DequantizeOptions", _nothing),
}


def _integers(op: Op, rank: int) -> list[tuple[int, ...]]:
    """Returns the int32 inputs that TFLite's form of ``op`` takes after its tensors; ``rank`` is of its first input."""
    match op.kind:
        case "mean":
            return [tuple(axis % rank for axis in op.options["axis"])]
        case "reshape":
            return [tuple(op.options["shape"])]
        case "transpose":
            return [tuple(op.options["perm"])]
        case "slice":
            return [tuple(op.options["begin"]), tuple(op.options["size"])]
    return []
