"""Writes a sliced ViT as ONNX, TFLite float32 and TFLite int8, each verified by running it."""

from .exporter import KINDS, ExportSettings, export_model
from .onnx_file import write_onnx
from .quantise import write_quantised
from .tflite_file import write_tflite
from .verify import check_parity, compare_logits, measure_parity
from .widths import read_widths

__all__ = [
    "KINDS",
    "ExportSettings",
    "check_parity",
    "compare_logits",
    "export_model",
    "measure_parity",
    "read_widths",
    "write_onnx",
    "write_quantised",
    "write_tflite",
]
