"""Writes tiny-fp32.tflite and tiny-int8.tflite: mean over the image, then a linear layer with known weights.

Run from the repository's root, with the ``export`` extra installed: ``python tests/golden/make_tiny_tflite.py``.
The tests compute what the files must answer from ``WEIGHT`` and ``BIAS`` in ``tests/runtime/tiny.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import qtyping, quantizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime"))

from tiny import BIAS, SIZE, WEIGHT  # noqa: E402


class Tiny(torch.nn.Module):
    """Mean over rows and columns, then logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 3)
        self.head.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT.copy()))
        self.head.bias = torch.nn.Parameter(torch.from_numpy(BIAS.copy()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits ``(1, 3)`` of images ``(1, SIZE, SIZE, 3)``."""
        return self.head(images.mean(dim=(1, 2)))


def main() -> None:
    """Writes both files beside this script."""
    sample = (torch.zeros(1, SIZE, SIZE, 3),)
    float_file = HERE / "tiny-fp32.tflite"
    litert_torch.convert(Tiny().eval(), sample).export(str(float_file))

    extremes = np.broadcast_to(np.array([1, -1, 1], np.float32), (1, SIZE, SIZE, 3)).copy()
    quantiser = quantizer.Quantizer(str(float_file))
    quantiser.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
    )
    name, keys = next(iter(_signatures(float_file).items()))
    calibrated = quantiser.calibrate({name: [{keys[0]: extremes}]})
    int8_file = HERE / "tiny-int8.tflite"
    int8_file.unlink(missing_ok=True)
    quantiser.quantize(calibrated).export_model(str(int8_file))
    int8_file.chmod(0o644)


def _signatures(file: Path) -> dict[str, list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    return {name: entry["inputs"] for name, entry in Interpreter(model_path=str(file)).get_signature_list().items()}


if __name__ == "__main__":
    main()
