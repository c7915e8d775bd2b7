"""Puts a ``.tflite`` file between pixels and probabilities: normalisation before it, softmax behind it.

The normalisation goes into the weights of the patch embedding where these are floats of an RGB model: patches are never
padded, so ``(x - mean) / std`` is another weight and another bias, exactly. Integer weights stay as they are, and so
does the sum of a grey model: one convolution of 1 x 1 in front of the file computes what its images were prepared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.graph.file_model import open_tflite, tflite_schema
from export.writers.tflite import aligned_buffer, operator_code
from runtime import MissingExtraError, Preprocessing

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue in grey, as Pillow has them (ITU-R BT.601 in 16 bits)."""

IMAGE, SCORES = "image", "scores"
"""Names of the input and the output of a file for apps."""


@dataclass(frozen=True)
class Rewritten:
    """The content of a file for apps.

    Attributes:
        content: of the ``.tflite`` file.
        normalised_by: ``patch embedding`` or ``convolution``.
    """

    content: bytes
    normalised_by: str


def rewritten(
    content: bytes, spec: Preprocessing, *, pixels: bool, probabilities: bool, metadata: dict[str, bytes]
) -> Rewritten:
    """Returns a file that reads RGB of 0..1, or uint8 pixels, and answers in float32.

    Args:
        content: of a ``.tflite`` file that PocketViT wrote.
        spec: how its images are prepared.
        pixels: whether the image is uint8; else it is float32, pixel / 255.
        probabilities: whether a softmax comes last.
        metadata: entries of the file's metadata to add, by name.

    Raises:
        ArtifactError: it is no TFLite file.
        MissingExtraError: ai-edge-litert or flatbuffers is not installed.
    """
    editor = _Editor(content)
    by = editor.front(spec, pixels)
    editor.back(probabilities)
    for name, value in metadata.items():
        editor.entry(name, value)
    return Rewritten(editor.content(), by)


class _Editor:
    def __init__(self, content: bytes) -> None:
        try:
            import flatbuffers
        except ImportError:
            raise MissingExtraError("flatbuffers", "export") from None
        self.flatbuffers, self.schema = flatbuffers, tflite_schema()
        self.model: Any = self.schema.ModelT.InitFromObj(open_tflite(Path("the file"), content))
        self.graph = self.model.subgraphs[0]
        self.model.metadata = self.model.metadata or []
        self.before: list[Any] = []

    def content(self) -> bytes:
        self.graph.operators = [*self.before, *self.graph.operators]
        whole = aligned_buffer(self.schema)
        for i, buffer in enumerate(self.model.buffers):
            if buffer.data is not None and len(buffer.data):
                self.model.buffers[i] = whole()
                self.model.buffers[i].data = np.asarray(buffer.data, np.uint8)
        size = sum(len(buffer.data) for buffer in self.model.buffers if buffer.data is not None)
        builder = self.flatbuffers.Builder(1024 + size)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def entry(self, name: str, value: bytes) -> None:
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name.encode(), self.buffer(np.frombuffer(value, np.uint8))
        self.model.metadata.append(entry)

    def front(self, spec: Preprocessing, pixels: bool) -> str:
        """Puts the pixels in front, and returns where the normalisation went."""
        old = int(self.graph.inputs[0])
        self.graph.tensors[old].name = f"{IMAGE}.normalised".encode()
        shape = (1, spec.height, spec.width, 3)
        new = real = self.tensor(IMAGE, shape, "UINT8" if pixels else "FLOAT32")
        if pixels:
            self.graph.tensors[new].quantization = quantization = self.schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = np.array([1 / 255], np.float32), np.array([0], np.int64)
            real = self.tensor(f"{IMAGE}.real", shape, "FLOAT32")
        folded = spec.channels == 3 and self.fold(spec)
        integer = self.graph.tensors[old].type != self.schema.TensorType.FLOAT32
        if pixels:
            self.before.append(self.op("DEQUANTIZE", [new], real))
        if folded:
            self.replace_input(old, real)
        else:
            weight, offset = front_weights(spec)
            normal = self.tensor(f"{IMAGE}.real_normalised", (*shape[:3], spec.channels), "FLOAT32") if integer else old
            inputs = [real, self.constant(f"{IMAGE}.weight", weight), self.constant(f"{IMAGE}.bias", offset)]
            self.before.append(self.op("CONV_2D", inputs, normal))
            if integer:
                self.before.append(self.op("QUANTIZE", [normal], old))
        self.graph.inputs = np.array([new], np.int32)
        self.signature("inputs", IMAGE, new)
        return "patch embedding" if folded else "convolution"

    def back(self, probabilities: bool) -> None:
        """Puts float32 scores behind the outputs."""
        last = int(self.graph.outputs[0])
        shape = tuple(int(n) for n in self.graph.tensors[last].shape)
        steps = ["DEQUANTIZE"] if self.graph.tensors[last].type != self.schema.TensorType.FLOAT32 else []
        steps += ["SOFTMAX"] if probabilities else []
        for number, kind in enumerate(steps, 1):
            self.graph.tensors[last].name += b".integer" if kind == "DEQUANTIZE" else b""
            name = SCORES if number == len(steps) else "logits"
            after = self.tensor(name, shape, "FLOAT32")
            self.graph.operators.append(self.op(kind, [last], after))
            last = after
        self.graph.tensors[last].name = SCORES.encode()
        self.graph.outputs = np.array([last], np.int32)
        self.signature("outputs", SCORES, last)

    def fold(self, spec: Preprocessing) -> bool:
        """Puts the normalisation into float weights of the patch embedding; returns False where it has none."""
        types = self.schema.TensorType
        named = {tensor.name.decode(): tensor for tensor in self.graph.tensors}
        stored = named.get("patch_embed.weight.half") or named.get("patch_embed.weight")
        bias = named.get("patch_embed.bias")
        if stored is None or bias is None or stored.type not in (types.FLOAT32, types.FLOAT16):
            return False
        dtype = np.float16 if stored.type == types.FLOAT16 else np.float32
        weight, offset = self.values(stored, dtype), self.values(bias, np.float32)
        mean, std = np.asarray(spec.mean), np.asarray(spec.std)
        by_channel = weight.astype(np.float64).reshape(len(offset), -1, spec.channels)
        # the bias belongs to the weights as they are stored
        new = (by_channel / std).astype(dtype)
        if not np.isfinite(new).all():
            return False
        self.store(stored, new)
        self.store(bias, (offset.astype(np.float64) - (new.astype(np.float64) * mean).sum((1, 2))).astype(np.float32))
        return True

    def values(self, tensor: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.frombuffer(np.asarray(self.model.buffers[tensor.buffer].data, np.uint8).tobytes(), dtype)

    def store(self, tensor: Any, value: npt.NDArray[Any]) -> None:
        sharing = sum(other.buffer == tensor.buffer for other in self.graph.tensors)
        if tensor.buffer and sharing == 1:
            self.model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        else:
            tensor.buffer = self.buffer(value)

    def buffer(self, value: npt.NDArray[Any]) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank = name.encode(), np.array(shape, np.int32), True
        tensor.type = getattr(self.schema.TensorType, dtype)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, value: npt.NDArray[Any]) -> int:
        place = self.tensor(name, value.shape, "FLOAT32")
        self.store(self.graph.tensors[place], value.astype(np.float32))
        return place

    def op(self, kind: str, inputs: list[int], output: int) -> Any:
        schema = self.schema
        codes = self.model.operatorCodes
        wanted = operator_code(schema, kind.lower())
        found = [i for i, code in enumerate(codes) if code.builtinCode == wanted.builtinCode]
        if not found:
            codes.append(wanted)
        operator = schema.OperatorT()
        operator.opcodeIndex = found[0] if found else len(codes) - 1
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        options = {"CONV_2D": "Conv2DOptions", "SOFTMAX": "SoftmaxOptions"}.get(kind, f"{kind.title()}Options")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = filled = getattr(schema, f"{options}T")()
        if kind == "SOFTMAX":
            filled.beta = 1.0
        if kind == "CONV_2D":
            filled.padding = schema.Padding.VALID
            filled.strideH = filled.strideW = filled.dilationHFactor = filled.dilationWFactor = 1
        return operator

    def replace_input(self, old: int, new: int) -> None:
        for operator in self.graph.operators:
            if operator.inputs is not None:
                operator.inputs = np.where(np.asarray(operator.inputs) == old, new, operator.inputs).astype(np.int32)

    def signature(self, side: str, name: str, place: int) -> None:
        for signature in self.model.signatureDefs or []:
            for entry in getattr(signature, side):
                entry.name, entry.tensorIndex = name.encode(), place


def front_weights(spec: Preprocessing) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns weights ``(channels, 1, 1, 3)`` and bias ``(channels,)`` that make a model's image of RGB in 0..1."""
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    rows = np.asarray([LUMA]) if spec.channels == 1 else np.eye(3)
    return (rows / std[:, None]).reshape(spec.channels, 1, 1, 3), -mean / std
