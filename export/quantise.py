"""Integer versions of a float TFLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import DataError, MissingExtraError, quiet

DYNAMIC = "dynamic_wi8_afp32"
"""int8 weights per channel, activations quantised on the fly; float in and out. The fastest on a CPU with XNNPACK."""

STATIC = "static_wi8_ai8"
"""int8 weights and activations throughout, int8 in and out; ranges from calibration images."""


def write_quantised(source: Path, path: Path, recipe: str, calibration: npt.NDArray[np.float32] | None = None) -> None:
    """Quantises the float TFLite file ``source`` into ``path``.

    Args:
        source: a float32 ``.tflite`` file with one input.
        path: where to write.
        recipe: ``DYNAMIC`` or ``STATIC``.
        calibration: preprocessed images ``(N, H, W, C)`` float32; needed by ``STATIC``.

    Raises:
        DataError: ``STATIC`` without at least two calibration images that differ.
        MissingExtraError: ai-edge-quantizer is not installed.
    """
    if recipe == STATIC:
        _check_calibration(calibration)
    with quiet():
        try:
            from ai_edge_quantizer import quantizer
            from ai_edge_quantizer import recipe as recipes
        except ImportError:
            raise MissingExtraError("ai-edge-quantizer", "export") from None
        job = quantizer.Quantizer(str(source), getattr(recipes, recipe)())
        ranges = None
        if job.need_calibration:
            assert calibration is not None
            ranges = job.calibrate(_calibration_feed(source, calibration))
        job.quantize(ranges).export_model(str(path), overwrite=True)


def _check_calibration(images: npt.NDArray[np.float32] | None) -> None:
    if images is None or len(images) < 2:
        raise DataError("Calibration needs images", expected="at least 2", got=0 if images is None else len(images))
    if float(np.ptp(images)) == 0.0 or bool((images == images[:1]).all()):
        raise DataError("The calibration images are constant or all the same", fix="Calibrate on real images")


def _calibration_feed(source: Path, images: npt.NDArray[np.float32]) -> dict[str, list[dict[str, Any]]]:
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(model_path=str(source)).get_signature_list()
    (key, signature), *_ = signatures.items()
    name = signature["inputs"][0]
    return {key: [{name: image[None]} for image in images]}
