"""The process in which converters work: they print, take much memory, and may abort."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from compress.model.load import ModelSpec
from compress.model.other import OtherModel, rebuilt
from export.convert.onnx import convert_to_onnx
from export.convert.quantise import CONVERTED_RECIPES
from export.convert.tflite import convert_to_tflite
from runtime import CountedModel, ModelError, PocketVitError, decode
from runtime.worker.child import Reporter, serve


def _onnx(model: OtherModel, path: Path, opset: int) -> None:
    plan = model.plan
    convert_to_onnx(model, (plan.in_chans, *plan.img_size), path, opset)


def _tflite(model: OtherModel, path: Path, opset: int) -> None:
    plan = model.plan
    convert_to_tflite(model, (plan.in_chans, *plan.img_size), path)


_WRITERS: dict[str, Callable[[OtherModel, Path, int], None]] = {"onnx": _onnx, "tflite": _tflite}


def _convert(
    reporter: Reporter, spec: dict[str, Any], plan: dict[str, Any], weights: str, form: str, opset: int, path: str
) -> None:
    """Builds a model and writes it as a float file.

    Args:
        reporter: of this process.
        spec: the fields of a ``ModelSpec`` that the network is built from.
        plan: the model's ``CountedModel``, encoded.
        weights: path of its weights.
        form: ``onnx`` or ``tflite``.
        opset: version of ONNX's operators.
        path: of the file.
    """
    torch.set_num_threads(1)
    sides = spec["img_size"]
    spec = {**spec, "img_size": tuple(sides) if isinstance(sides, list) else sides}
    model = rebuilt(ModelSpec(**spec), decode(CountedModel, plan, "plan"), load_file(weights))
    reporter.doing(form, "converting")
    _WRITERS[form](model, Path(path), opset)


def _quantise(reporter: Reporter, recipe: str, source: str, images: str, path: str) -> None:
    """Quantises a float file.

    Args:
        reporter: of this process.
        recipe: name in ``CONVERTED_RECIPES``.
        source: path of the float file.
        images: path of the calibration images, a ``.npy`` file of ``(N, H, W, C)`` float32.
        path: of the new file.
    """
    reporter.doing(recipe, "quantising")
    CONVERTED_RECIPES[recipe].write(Path(source), np.load(images), Path(path))


def _failed(error: Exception, request: dict[str, Any]) -> Exception:
    """Turns whatever a converter raises into an error of one line."""
    if isinstance(error, PocketVitError):
        return error
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    got = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    step = request.get("recipe") or request.get("form")
    return ModelError(
        f"The converter cannot write this model ({step})", got=got, fix="Leave this kind of file out with --formats"
    )


if __name__ == "__main__":
    sys.exit(serve({"convert": _convert, "quantise": _quantise}, _failed))
