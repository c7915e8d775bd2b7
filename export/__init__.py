"""Writes a sliced ViT as ONNX, TFLite float32 and TFLite int8, each verified by running it."""

from .exporter import KINDS, ExportSettings, export_model
from .graph import Graph, Op, QParams
from .onnx_file import write_onnx
from .quantise import DYNAMIC, write_quantised
from .resize import Template, make_template, resize
from .run_graph import run_graph
from .tflite_file import write_tflite
from .tflite_writer import tflite_bytes
from .verify import check_parity, compare_logits, measure_parity
from .vit_graph import ALL_REWRITES, NO_REWRITES, Rewrites, vit_graph
from .widths import read_widths

__all__ = [
    "ALL_REWRITES",
    "DYNAMIC",
    "Graph",
    "KINDS",
    "NO_REWRITES",
    "Op",
    "QParams",
    "Rewrites",
    "ExportSettings",
    "Template",
    "check_parity",
    "compare_logits",
    "export_model",
    "make_template",
    "measure_parity",
    "read_widths",
    "resize",
    "run_graph",
    "tflite_bytes",
    "vit_graph",
    "write_onnx",
    "write_quantised",
    "write_tflite",
]
