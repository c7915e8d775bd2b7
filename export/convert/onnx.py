"""Writes any model of timm as an ONNX file, with torch's exporter."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from runtime import MissingExtraError, quiet

from .rewrites import RewrittenNetwork

INPUT, OUTPUT = "image", "logits"


def convert_to_onnx(model: torch.nn.Module, image: tuple[int, int, int], path: Path, opset: int = 18) -> None:
    """Writes ``model`` with inputs ``(B, C, H, W)`` of any number of images.

    The exporter that traces is tried first, since it is the quicker one and writes smaller graphs; a model that it
    cannot write goes through the exporter that captures the program.

    Args:
        model: a classifier in evaluation mode, images to logits ``(B, N)``.
        image: its channels, height and width.
        path: of the file.
        opset: version of ONNX's operators.

    Raises:
        MissingExtraError: the second exporter is needed, and a package of it is not installed.
    """
    model = RewrittenNetwork(model)
    try:
        _traced(model, image, path, opset)
    except Exception:  # the other exporter says what is wrong
        if find_spec("onnxscript") is None:
            raise MissingExtraError("onnxscript", "convert") from None
        _captured(model, image, path, opset)


def _traced(model: torch.nn.Module, image: tuple[int, int, int], path: Path, opset: int) -> None:
    batch = {0: "batch"}
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
    dynamic: dict[str, Any] = {"dynamic_axes": {INPUT: batch, OUTPUT: batch}, "dynamo": False}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(2, *image),), str(path), opset_version=opset, **names, **dynamic)
    _check(path)


def _captured(model: torch.nn.Module, image: tuple[int, int, int], path: Path, opset: int) -> None:
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "external_data": False}
    dynamic: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},), "dynamo": True}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(2, *image),), str(path), opset_version=opset, verbose=False, **names, **dynamic
        )
    _check(path)


def _check(path: Path) -> None:
    """Runs the file on one image and on three, so that a batch that was frozen is found.

    Raises:
        ValueError: the file answers with another number of rows than it got.
    """
    import numpy as np
    from onnxruntime import InferenceSession

    session = InferenceSession(path)
    (own,) = session.get_inputs()
    for batch in (1, 3):
        (got,) = session.run(None, {own.name: np.zeros((batch, *own.shape[1:]), np.float32)})
        if got.shape[0] != batch:
            raise ValueError(f"the file answers {batch} images with {got.shape[0]} rows")
