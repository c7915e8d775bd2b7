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


_PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
_ENDS = ("INPUT", "OUTPUT")
_SLOW = ("HARD_SWISH", "GELU", "SOFTMAX", "RSQRT", "SQRT", "DIV", "SUM", "SQUARED_DIFFERENCE")
"""Operators that XNNPACK does not compute in int8, or that lose much in it."""


def _all_static(floats: tuple[str, ...]) -> Any:
    """Returns a recipe of ai-edge-quantizer with int8 weights and activations; ``floats`` stay float32."""
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe.static_wi8_ai8())
    for name in floats:
        none = algorithm_manager.AlgorithmName.NO_QUANTIZE
        manager.add_quantization_config(".*", qtyping.TFLOperationName[name], algorithm_key=none)
    return manager.get_quantization_recipe()


def _products_alone() -> Any:
    """Returns a recipe in which only convolutions and matrix products are of int8 weights and activations."""
    from ai_edge_quantizer import qtyping, recipe_manager

    manager = recipe_manager.RecipeManager()
    for name in _PRODUCTS:
        manager.add_static_config(".*", qtyping.TFLOperationName[name], 8, 8)
    return manager.get_quantization_recipe()


def _dynamic() -> Any:
    from ai_edge_quantizer import recipe

    return recipe.dynamic_wi8_afp32()


def _litert(steps: Callable[[], Any], source: Path, images: Images, path: Path) -> None:
    from ai_edge_quantizer import quantizer

    with quiet():
        recipe = steps()
        job = quantizer.Quantizer(str(source), recipe)
        ranges = _ranges(source, recipe, images) if job.need_calibration else None
        job.quantize(ranges).export_model(str(path), overwrite=True)


def _ranges(source: Path, recipe: Any, images: Images) -> Any:
    """Returns the least and the greatest value of each tensor on all images.

    The quantiser itself takes a moving average of each image's ranges, which clips what is rare.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    ((key, signature),) = Interpreter(model_path=str(source)).get_signature_list().items()
    watched = calibrator.Calibrator(str(source), num_threads=1, qsv_update_func=min_max_update)
    watched.calibrate({key: [{signature["inputs"][0]: image[None]} for image in images]}, manager)
    return watched.get_model_qsvs()


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


CONVERTED_RECIPES: dict[str, ConvertedRecipe] = {
    own.name: own
    for own in (
        ConvertedRecipe("aeq_static_wi8_ai8", partial(_litert, partial(_all_static, ()))),
        ConvertedRecipe("aeq_static_wi8_ai8_float_io", partial(_litert, partial(_all_static, _ENDS))),
        ConvertedRecipe("aeq_static_wi8_ai8_float_islands", partial(_litert, partial(_all_static, _ENDS + _SLOW))),
        ConvertedRecipe("aeq_static_wi8_ai8_products", partial(_litert, _products_alone)),
        ConvertedRecipe("aeq_dynamic_wi8_afp32", partial(_litert, _dynamic)),
        ConvertedRecipe("ort_qdq", partial(_onnxruntime, ())),
        ConvertedRecipe("ort_qdq_products", partial(_onnxruntime, ("Conv", "Gemm", "MatMul"))),
    )
}
"""Recipes by name."""
