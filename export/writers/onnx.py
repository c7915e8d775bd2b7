"""Writes a graph as an ONNX file with a free batch dimension."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.ir import Graph, Op, QParams
from export.graph.norms import Norm, find_norms, readers_of

from .onnx_opsets import OPSET, OPSETS
from .onnx_tensors import INPUT, TensorWriter, swapped

_REDUCED_AXES_ARE_INPUTS, _GELU_IS_ONE, RMS_NORM_IS_ONE = 18, 20, 23
"""The first versions with axes of reductions as inputs, with the operator Gelu, and with RMSNormalization."""

_SAME = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "logistic": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
}
"""Operators that ONNX has under another name and that take no options."""

_ALONG_ROWS = (*_SAME, "gelu", "quantize", "dequantize")
"""Operators that compute each value from the values at the same place and from constants for each channel."""


def onnx_bytes(graph: Graph, half: bool = False, opset: int = OPSET) -> bytes:
    """Returns ``graph`` as the content of a ``.onnx`` file: ``image (batch, C, H, W)`` to ``logits (batch, classes)``.

    Input and output are float32 always. The file holds standard operators alone, no path and no time: equal graphs
    give equal bytes. A weight keeps its name and is stored as ``(inputs, outputs)``.

    Integers are written in the forms that ONNX Runtime joins into its fast kernels. Activations are uint8 (the zero
    point moves by 128), since products of uint8 by int8 are the ones with a fast kernel on x86; the second operand of
    a product of two activations stays int8. A Linear of mode ``dynamic`` quantises its input as one tensor, all
    images of a batch together. What would be rounded to integers only to be made float again is not rounded.

    Args:
        graph: a float graph, or one from ``quantise``.
        half: whether float weights of two dimensions and more are stored as float16. The engine widens them when it
            loads the file and computes in float32: the file is half as large and as fast.
        opset: version of ONNX's operators, of ``OPSETS``. GELU is one operator since 20 and RMSNorm since 23; before,
            they are written in single operators, which compute the same.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    assert opset in OPSETS, opset
    return _Writer(graph, half, opset).content()


class _Writer(TensorWriter):
    """Writes the operators of a graph, with the batch in front of the dimensions of every computed tensor.

    Outputs of Linears, and what is computed from them elementwise, stay matrices of all rows of the batch. They are
    reshaped only where an operator needs their dimensions, since each reshape costs the engine a call.
    """

    def __init__(self, graph: Graph, half: bool, opset: int) -> None:
        super().__init__(graph, half)
        self.opset = opset
        self.norms = {n.output: n for n in find_norms(graph).values() if n.centred or opset >= RMS_NORM_IS_ONE}
        self.inside = frozenset(name for norm in self.norms.values() for name in norm.inside)
        self.readers = readers_of(graph)

    def content(self) -> bytes:
        graph, helper, floats = self.graph, self.onnx.helper, self.onnx.TensorProto.FLOAT
        _, height, width, chans = graph.shapes[graph.input]
        pixels = self.node("Transpose", [INPUT], "image.pixels", perm=[0, 2, 3, 1])
        if graph.input in graph.qparams:
            pixels = self.quantized(pixels, graph.input, "image.stored")
        self.names[graph.input] = pixels
        for op in graph.ops:
            if op.output in self.norms:
                self.norm(self.norms[op.output])
            elif op.output not in self.inside:
                self.add(op)
        values, written = self.output_shape(), self.rows(graph.output)
        if len(values) > 1:
            self.node("Reshape", [written, self.integers([-1, *values])], self.output)
        elif self.nodes[-1].output[0] == written:
            self.nodes[-1].output[0] = self.output
        else:
            self.node("Identity", [written], self.output)
        body = helper.make_graph(
            self.nodes,
            "PocketViT",
            [helper.make_tensor_value_info(INPUT, floats, ["batch", chans, height, width])],
            [helper.make_tensor_value_info(self.output, floats, ["batch", *values])],
            list(self.initializers.values()),
        )
        model = helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", self.opset)]),
            producer_name="PocketViT",
        )
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def output_shape(self) -> tuple[int, ...]:
        """Returns the dimensions of the output for one image: its classes or values, or those of a grid."""
        shape = self.graph.shapes[self.graph.output]
        return shape[1:] if len(shape) == len(self.graph.shapes[self.graph.input]) else shape[-1:]

    def add(self, op: Op) -> None:
        integer = op.output in self.graph.qparams and op.output not in self.unrounded
        match op.kind:
            case "fully_connected":
                self.fully_connected(op, integer)
            case "reshape":
                self.reshaped(op, integer)
            case "transpose" | "slice":
                self.names[op.output] = self.moved(op, integer)
            case _:
                along_rows = self.is_along_rows(op)
                name = f"{self.named(op)}.rows" if along_rows else self.named(op)
                rounded = integer or op.kind == "quantize"
                result = self.computed(op, self.rows if along_rows else self.real, f"{name}.real" if integer else name)
                result = self.quantized(result, op.output, name) if rounded else result
                (self.matrices if along_rows else self.names)[op.output] = result

    def is_along_rows(self, op: Op) -> bool:
        """Returns whether an operator can be computed on matrices, of which one exists already."""
        shape, constants = self.graph.shapes[op.output], self.graph.constants
        computed = [name for name in op.inputs if name not in constants]
        channels = [constants[name] for name in op.inputs if name in constants]
        return (
            op.kind in _ALONG_ROWS
            and any(name in self.matrices for name in computed)
            and all(self.graph.shapes[name] == shape for name in computed)
            and all(value.ndim <= 2 and value.size in (1, shape[-1]) for value in channels)
        )

    def computed(self, op: Op, get: Callable[[str], str], output: str) -> str:
        """Writes an operator on the float tensors from ``get``; changes of type write nothing."""
        options = op.options
        if op.kind in _SAME:
            return self.node(_SAME[op.kind], [get(name) for name in op.inputs], output)
        x = get(op.inputs[0]) if op.kind != "concatenation" else ""
        match op.kind:
            case "quantize" | "dequantize":
                return x
            case "conv_2d":
                return self.conv(op, x, output)
            case "conv" | "depthwise" | "pad" | "max_pool":
                return self.on_maps(op, x, output)
            case "batch_matmul":
                return self.product(op, x, output)
            case "softmax":
                return self.node("Softmax", [x], output, axis=-1)
            case "gelu":
                return self.gelu(x, bool(options.get("approximate")), output)
            case "rsqrt":
                return self.node("Reciprocal", [self.node("Sqrt", [x], f"{output}.sqrt")], output)
            case "mean":
                if self.opset < _REDUCED_AXES_ARE_INPUTS:
                    return self.node("ReduceMean", [x], output, keepdims=1, axes=list(options["axis"]))
                return self.node("ReduceMean", [x, self.integers(options["axis"])], output, keepdims=1)
            case "concatenation":
                parts = [self.repeated(name) if name in self.graph.constants else self.real(name) for name in op.inputs]
                return self.node("Concat", parts, output, axis=options["axis"])
        raise AssertionError(op.kind)

    def gelu(self, x: str, approximate: bool, output: str) -> str:
        """Writes GELU as one operator, or before opset 20 in the form that engines fuse into one."""
        if self.opset >= _GELU_IS_ONE:
            return self.node("Gelu", [x], output, approximate="tanh" if approximate else "none")
        half, one = self.number(0.5), self.number(1.0)
        if approximate:
            cube = self.node("Pow", [x, self.number(3.0)], f"{output}.cube")
            inner = self.node(
                "Add", [x, self.node("Mul", [cube, self.number(0.044715)], f"{output}.bent")], f"{output}.sum"
            )
            inner = self.node("Mul", [inner, self.number(math.sqrt(2 / math.pi))], f"{output}.scaled")
            share = self.node("Add", [self.node("Tanh", [inner], f"{output}.tanh"), one], f"{output}.share")
            return self.node("Mul", [x, self.node("Mul", [share, half], f"{output}.halved")], output)
        scaled = self.node("Div", [x, self.number(math.sqrt(2))], f"{output}.scaled")
        share = self.node("Add", [self.node("Erf", [scaled], f"{output}.erf"), one], f"{output}.share")
        return self.node("Mul", [self.node("Mul", [x, share], f"{output}.product"), half], output)

    def reshaped(self, op: Op, integer: bool) -> None:
        """Writes a reshape, to a matrix where only Linears and changes of type read it."""
        source, shape, name = op.inputs[0], op.options["shape"], self.named(op)
        if source in self.matrices:
            x = self.matrices[source] if integer else self.rows(source)
        else:
            x = self.stored(source) if integer else self.real(source)
        readers = {reader.kind for reader in self.readers.get(op.output, [])}
        if op.output == self.graph.output and source in self.matrices:
            self.matrices[op.output] = x  # it has its dimensions when all is written
        elif readers and readers <= {"fully_connected", "quantize", "dequantize"}:
            self.matrices[op.output] = self.node("Reshape", [x, self.integers([-1, shape[-1]])], f"{name}.rows")
        else:
            self.names[op.output] = self.node("Reshape", [x, self.integers([-1, *shape])], name)

    def moved(self, op: Op, integer: bool) -> str:
        options, output, source = op.options, self.named(op), op.inputs[0]
        x = self.stored(source) if integer else self.real(source)
        if op.kind == "transpose":
            return self.node("Transpose", [x], output, perm=[0, *(axis + 1 for axis in options["perm"])])
        shape, spans = self.graph.shapes[op.inputs[0]], zip(options["begin"], options["size"], strict=True)
        cut = [(begin, begin + size, axis + 1) for axis, (begin, size) in enumerate(spans) if size != shape[axis]]
        return self.node("Slice", [x, *(self.integers(column) for column in zip(*cut, strict=True))], output)

    def norm(self, norm: Norm) -> None:
        graph, output = self.graph, norm.output
        channels = graph.shapes[norm.source][-1]
        factor = norm.gain**-0.5
        if norm.weight is None:
            name = f"ones.{channels}" if factor == 1 else f"ones.{channels}.times.{factor:g}"
            weight = self.array(name, np.full(channels, factor, np.float32))
        else:
            weight = self.array(norm.weight, (factor * np.ravel(graph.constants[norm.weight])).astype(np.float32))
        along_rows = norm.source in self.matrices
        inputs = [self.rows(norm.source) if along_rows else self.real(norm.source), weight]
        if norm.bias is not None:
            inputs.append(self.array(norm.bias, np.ravel(graph.constants[norm.bias]).astype(np.float32)))
        kind = "LayerNormalization" if norm.centred else "RMSNormalization"
        name = f"{output}.rows" if along_rows else output
        (self.matrices if along_rows else self.names)[output] = self.node(kind, inputs, name, axis=-1, epsilon=norm.eps)

    def product(self, op: Op, x: str, output: str) -> str:
        second, graph = op.inputs[1], self.graph
        turned = bool(op.options.get("adj_y"))
        if second in graph.constants and second in graph.qparams and op.inputs[0] not in graph.qparams:
            value = swapped(graph, second) if turned else graph.constants[second]
            return self.dynamic(x, second, value, None, output)
        if second in graph.constants:
            return self.node("MatMul", [x, self.weight(second, turned)], output)
        integer = second in graph.qparams and second not in self.unrounded
        y = self.stored(second) if integer else self.real(second)
        if turned:
            rank = len(graph.shapes[second])
            y = self.node("Transpose", [y], f"{y}.turned", perm=[*range(rank - 1), rank, rank - 1])
        return self.node("MatMul", [x, self.dequantized(y, second) if integer else y], output)

    def conv(self, op: Op, x: str, output: str) -> str:
        kernel = self.real_constant(op.inputs[1], np.moveaxis(self.graph.constants[op.inputs[1]], -1, 1), 0)
        x = self.maps(op, x, output)
        inputs = [self.node("Transpose", [x], f"{output}.planes", perm=[0, 3, 1, 2]), kernel]
        inputs += [self.real(name) for name in op.inputs[2:]]
        y = self.node("Conv", inputs, f"{output}.conv", strides=list(op.options["stride"]))
        y = self.node("Transpose", [y], f"{output}.pixels", perm=[0, 2, 3, 1])
        return self.node("Reshape", [y, self.integers([-1, *self.graph.shapes[op.output]])], output)

    def maps(self, op: Op, x: str, output: str) -> str:
        """Returns an operator's input as maps ``(batch, H, W, C)``, which the images are already."""
        if op.inputs[0] == self.graph.input:
            return x
        return self.node("Reshape", [x, self.integers([-1, *self.graph.shapes[op.inputs[0]][1:]])], f"{output}.map")

    def on_maps(self, op: Op, x: str, output: str) -> str:
        """Writes an operator of a stem, which takes maps ``(batch, C, H, W)``."""
        options = op.options
        x = self.node("Transpose", [self.maps(op, x, output)], f"{output}.planes", perm=[0, 3, 1, 2])
        if op.kind == "conv":
            weight, bias = op.inputs[1:]
            kernel = self.real_constant(weight, np.moveaxis(self.graph.constants[weight], -1, 1), 0)
            y = self.node("Conv", [x, kernel, self.real(bias)], f"{output}.conv", strides=list(options["stride"]))
        elif op.kind == "depthwise":
            weight, bias = op.inputs[1:]
            value = self.graph.constants[weight]
            kernel = self.real_constant(weight, np.moveaxis(value, -1, 0), 0)
            every = {"strides": list(options["stride"]), "group": value.shape[-1]}
            y = self.node("Conv", [x, kernel, self.real(bias)], f"{output}.conv", **every)
        elif op.kind == "pad":
            top, bottom, left, right = options["padding"]
            sides = self.integers([0, 0, top, left, 0, 0, bottom, right])
            y = self.node("Pad", [x, sides], f"{output}.pad")
        else:
            sizes = {"kernel_shape": list(options["kernel"]), "strides": list(options["stride"])}
            y = self.node("MaxPool", [x], f"{output}.pool", **sizes)
        y = self.node("Transpose", [y], f"{output}.pixels", perm=[0, 2, 3, 1])
        return self.node("Reshape", [y, self.integers([-1, *self.graph.shapes[op.output]])], output)

    def fully_connected(self, op: Op, integer: bool) -> None:
        graph, (x, weight, *bias) = self.graph, op.inputs
        name, relu = self.named(op), op.options.get("act") == "relu"
        inner = f"{name}.rows"
        if weight in graph.qparams and x not in graph.qparams:
            assert not integer, "a dynamic Linear writes floats"
            raw = f"{name}.linear" if relu else name
            result = self.dynamic(self.real(x), weight, graph.constants[weight].T, bias[0] if bias else None, raw)
            self.names[op.output] = self.node("Relu", [result], name) if relu else result
            return
        inputs = [self.rows(x), self.weight(weight, True), *(self.real(name) for name in bias)]
        result = self.node("Gemm", inputs, f"{inner}.linear" if relu else f"{inner}.real" if integer else inner)
        if relu:
            result = self.node("Relu", [result], f"{inner}.real" if integer else inner)
        self.matrices[op.output] = self.quantized(result, op.output, inner) if integer else result

    def dynamic(self, x: str, name: str, weight: npt.NDArray[Any], bias: str | None, output: str) -> str:
        """Writes ``x @ weight + bias`` with int8 weights and a dynamically quantised input."""
        integers, scale, zero = (f"{x}.{part}" for part in ("uint8", "scale", "zero_point"))
        self.outputs("DynamicQuantizeLinear", [x], [integers, scale, zero])
        grid = self.graph.qparams[name]
        on_axis = QParams(grid.scale, 0, grid.dtype, None if grid.axis is None else -1)
        inputs = [integers, self.array(name, on_axis.stored(weight)), zero]
        real = self.node("Cast", [self.node("MatMulInteger", inputs, f"{output}.int32")], f"{output}.unscaled", to=1)
        scales = [scale, self.array(f"{name}.scale", np.asarray(grid.scale, np.float32))]
        both = self.node("Mul", scales, f"{output}.scale")
        if bias is None:
            return self.node("Mul", [real, both], output)
        return self.node("Add", [self.node("Mul", [real, both], f"{output}.product"), self.real(bias)], output)
