"""Quantises converted float files with the quantisers of their engines' makers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import quiet

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConvertedRecipe:
    """One way of quantising a converted file.

    Attributes:
        name: its name.
        write: called with the float file, the calibration images ``(N, H, W, C)`` and the path of the new file.
    """

    name: str
    write: Callable[[Path, Images, Path], None]


def _litert(recipe: str, source: Path, images: Images, path: Path, *, float_io: bool = False) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer import recipe as recipes

    with quiet():
        steps = getattr(recipes, recipe)()
        if float_io:
            manager = recipe_manager.RecipeManager()
            manager.load_quantization_recipe(steps)
            for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
                manager.add_quantization_config(".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
            steps = manager.get_quantization_recipe()
        job = quantizer.Quantizer(str(source), steps)
        ranges = None
        if job.need_calibration:
            ((key, signature),) = Interpreter(model_path=str(source)).get_signature_list().items()
            ranges = job.calibrate({key: [{signature["inputs"][0]: image[None]} for image in images]})
        job.quantize(ranges).export_model(str(path), overwrite=True)


def _onnxruntime(operators: tuple[str, ...], source: Path, images: Images, path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"image": np.ascontiguousarray(image.transpose(2, 0, 1))[None]}

    prepared = path.with_suffix(".prepared.onnx")
    with quiet():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,  # with int8 weights it is fast on x86, and exact on ARM
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(operators) or None,
        )
    prepared.unlink()


_PRODUCTS = ("Conv", "Gemm", "MatMul")

CONVERTED_RECIPES: dict[str, ConvertedRecipe] = {
    own.name: own
    for own in (
        ConvertedRecipe("aeq_static_wi8_ai8", partial(_litert, "static_wi8_ai8")),
        ConvertedRecipe("aeq_static_wi8_ai8_float_io", partial(_litert, "static_wi8_ai8", float_io=True)),
        ConvertedRecipe("aeq_dynamic_wi8_afp32", partial(_litert, "dynamic_wi8_afp32")),
        ConvertedRecipe("ort_qdq", partial(_onnxruntime, ())),
        ConvertedRecipe("ort_qdq_products", partial(_onnxruntime, _PRODUCTS)),
    )
}
"""Recipes by name."""
