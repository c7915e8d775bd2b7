"""Other tools' files of the same model: how each would be made by somebody who follows its documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress.evaluate import evaluating
from compress.model.vit import SlicedViT
from runtime import quiet

Images = npt.NDArray[np.float32]


class ChannelsLast(nn.Module):
    """The model with images as ``(B, H, W, C)``, as TFLite wants them."""

    def __init__(self, model: SlicedViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, H, W, C)`` to logits."""
        logits: torch.Tensor = self.model(image.permute(0, 3, 1, 2))
        return logits


def write_peers(model: SlicedViT, images: Images, folder: Path) -> dict[str, Path]:
    """Writes every peer's files.

    Args:
        model: a sliced ViT.
        images: to calibrate on, ``(N, H, W, C)``.
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain, torch_onnx, bare = folder / "litert-torch.tflite", folder / "torch.onnx", folder / "bare.onnx"
    ways: dict[str, tuple[Path, Callable[[Path], Any]]] = {
        "litert-torch, fp32": (plain, lambda path: litert_torch_fp32(model, path)),
        "ai-edge-quantizer, dynamic int8": (
            folder / "dynamic.tflite",
            lambda path: ai_edge_quantised(plain, path, "dynamic_wi8_afp32", images),
        ),
        "ai-edge-quantizer, static int8": (
            folder / "static.tflite",
            lambda path: ai_edge_quantised(plain, path, "static_wi8_ai8", images),
        ),
        "torch.onnx, fp32": (torch_onnx, lambda path: torch_fp32(model, path, bare)),
        "ONNX Runtime, quantize_dynamic": (folder / "ort-dynamic.onnx", lambda path: ort_dynamic(bare, path)),
        "ONNX Runtime, quantize_static": (folder / "ort-static.onnx", lambda path: ort_static(bare, path, images)),
        "OpenVINO, fp32": (folder / "openvino.xml", lambda path: openvino_fp32(torch_onnx, path)),
        "OpenVINO, NNCF int8": (folder / "nncf.xml", lambda path: openvino_int8(torch_onnx, path, images)),
    }
    for path, way in ways.values():
        if not path.is_file():
            way(path)
    return {name: path for name, (path, _) in ways.items()}


def litert_torch_fp32(model: SlicedViT, path: Path) -> None:
    """Converts as litert-torch's README does."""
    import litert_torch

    wrapped, plan = ChannelsLast(model), model.plan
    with quiet(), evaluating(model), evaluating(wrapped):
        example = (torch.zeros(1, *plan.img_size, plan.in_chans),)
        litert_torch.convert(wrapped, example).export(str(path))


def ai_edge_quantised(source: Path, path: Path, recipe: str, images: Images) -> None:
    """Quantises by one of ai-edge-quantizer's own recipes."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    with quiet():
        job = quantizer.Quantizer(str(source), getattr(recipes, recipe)())
        ranges = None
        if job.need_calibration:
            (key, signature), *_ = Interpreter(model_path=str(source)).get_signature_list().items()
            ranges = job.calibrate({key: [{signature["inputs"][0]: image[None]} for image in images]})
        job.quantize(ranges).export_model(str(path), overwrite=True)


def torch_fp32(model: SlicedViT, path: Path, bare: Path) -> None:
    """Exports as torch does; ``bare`` is the same without noted shapes, over which the quantisers stumble."""
    import onnx

    plan = model.plan
    with quiet(), evaluating(model):
        torch.onnx.export(
            model,
            (torch.zeros(2, plan.in_chans, *plan.img_size),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
    proto = onnx.load(path)
    del proto.graph.value_info[:]
    onnx.save(proto, bare)


def ort_dynamic(source: Path, path: Path) -> None:
    """Quantises weights for each output, and inputs as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)


def ort_static(source: Path, path: Path, images: Images) -> None:
    """Quantises Linears in the types that are fast on x86, uint8 by int8; everything else loses more and is slower."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        left = iter([{"image": image[None].transpose(0, 3, 1, 2)} for image in images])

        def get_next(self) -> dict[str, Images] | None:
            return next(self.left, None)

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(source, path, Reader(), per_channel=True, op_types_to_quantize=["MatMul", "Gemm"], **types)


def openvino_fp32(source: Path, path: Path) -> None:
    """Converts torch's ONNX file; weights stay float32."""
    import openvino

    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)


def openvino_int8(source: Path, path: Path, images: Images) -> None:
    """Quantises with NNCF's preset for transformers."""
    import nncf
    import openvino

    with quiet():
        data = nncf.Dataset([image[None].transpose(0, 3, 1, 2) for image in images])
        model = nncf.quantize(
            openvino.convert_model(source),
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
        )
        openvino.save_model(model, path, compress_to_fp16=False)
