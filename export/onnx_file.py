"""A sliced ViT as an ONNX file with a free batch dimension."""

from __future__ import annotations

from pathlib import Path

import torch

from compress import SlicedViT, evaluating
from runtime import MissingExtraError, quiet

INPUT, OUTPUT = "image", "logits"


def write_onnx(model: SlicedViT, path: Path) -> None:
    """Writes ``model`` to ``path``: input ``image (batch, C, H, W)``, output ``logits (batch, classes)``, float32.

    The file carries no path, no stack trace and no time: equal weights give equal bytes.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from None
    plan = model.plan
    example = torch.zeros(2, plan.in_chans, *plan.img_size)
    with quiet(), evaluating(model):
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
    proto = onnx.load(path)
    for item in (*proto.graph.node, *proto.graph.value_info, proto.graph, proto):
        del item.metadata_props[:]
        item.doc_string = ""
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
