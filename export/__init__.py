"""Writes a sliced ViT as ONNX, TFLite float32 and TFLite int8, each verified by running it."""

from .exporter import KINDS, ExportSettings, export_model
from .onnx_file import write_onnx
from .quantise import DYNAMIC, write_quantised
from .resize import Template, make_template, resize
from .tflite_file import write_tflite
from .verify import check_parity, compare_logits, measure_parity
from .widths import read_widths

__all__ = [
    "DYNAMIC",
    "KINDS",
    "ExportSettings",
    "Template",
    "check_parity",
    "compare_logits",
    "export_model",
    "make_template",
    "measure_parity",
    "read_widths",
    "resize",
    "write_onnx",
    "write_quantised",
    "write_tflite",
]
