"""Writes a sliced ViT as ONNX, TFLite and for torch, in float and in integers, each verified by running it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibrate import Stats, check_calibration, observe
    from .check_file import Verification, verify_file
    from .choose import Timer
    from .equalise import equalising_scales
    from .execute import run_graph
    from .export_job import DEFAULT_KINDS, KINDS, ExportSettings
    from .exporter import (
        REJECTED,
        ExportOutcome,
        RefusedFilesError,
        check_extras,
        export_each,
        export_model,
        released,
    )
    from .graph import Graph, Op, QParams
    from .inspection import Inspection, inspect_file
    from .integer import Ranges, quantise
    from .making import host_family
    from .micro import DEFAULT_LIMITS, MicroLimits, MicroRun, check_micro, micro_graph, run_micro
    from .onnx_file import write_onnx
    from .onnx_writer import onnx_bytes
    from .qat import Before, QatRecipe, train_quantised
    from .recipes import (
        CPU_RECIPES,
        DYNAMIC,
        DYNAMIC_ATTENTION,
        INT8_RECIPES,
        STATIC,
        STATIC_ATTENTION,
        Family,
        Recipe,
        full_recipes,
        modes_of,
    )
    from .rounding import correct_biases, simulate
    from .tflite_file import timing_bytes, write_int8, write_tflite
    from .tflite_writer import tflite_bytes
    from .torch_file import write_torch
    from .verify import check_parity, compare_logits, measure_parity, real_logits
    from .vit_as_graph import ALL_REWRITES, DEFAULT_REWRITES, NO_REWRITES, Rewrites, Scales, vit_graph
    from .widths import read_widths
    from .zeros import rewrites_for

__all__ = [
    "ALL_REWRITES",
    "CPU_RECIPES",
    "DEFAULT_KINDS",
    "DEFAULT_LIMITS",
    "DEFAULT_REWRITES",
    "DYNAMIC",
    "DYNAMIC_ATTENTION",
    "INT8_RECIPES",
    "KINDS",
    "MicroLimits",
    "MicroRun",
    "NO_REWRITES",
    "REJECTED",
    "STATIC",
    "STATIC_ATTENTION",
    "Before",
    "ExportOutcome",
    "ExportSettings",
    "Family",
    "Graph",
    "Inspection",
    "Op",
    "QParams",
    "QatRecipe",
    "Ranges",
    "Recipe",
    "RefusedFilesError",
    "Rewrites",
    "Scales",
    "Stats",
    "Timer",
    "Verification",
    "check_calibration",
    "check_extras",
    "check_micro",
    "check_parity",
    "compare_logits",
    "correct_biases",
    "equalising_scales",
    "export_each",
    "export_model",
    "full_recipes",
    "host_family",
    "inspect_file",
    "measure_parity",
    "micro_graph",
    "modes_of",
    "observe",
    "onnx_bytes",
    "quantise",
    "read_widths",
    "real_logits",
    "released",
    "rewrites_for",
    "run_graph",
    "run_micro",
    "simulate",
    "tflite_bytes",
    "timing_bytes",
    "train_quantised",
    "verify_file",
    "vit_graph",
    "write_int8",
    "write_onnx",
    "write_tflite",
    "write_torch",
]

_WHERE = {
    "calibrate": "Stats check_calibration observe",
    "check_file": "Verification verify_file",
    "choose": "Timer",
    "equalise": "equalising_scales",
    "export_job": "DEFAULT_KINDS KINDS ExportSettings",
    "exporter": "REJECTED ExportOutcome RefusedFilesError check_extras export_each export_model released",
    "graph": "Graph Op QParams",
    "inspection": "Inspection inspect_file",
    "integer": "Ranges quantise",
    "making": "host_family",
    "micro": "DEFAULT_LIMITS MicroLimits MicroRun check_micro micro_graph run_micro",
    "onnx_file": "write_onnx",
    "onnx_writer": "onnx_bytes",
    "qat": "Before QatRecipe train_quantised",
    "recipes": "CPU_RECIPES DYNAMIC DYNAMIC_ATTENTION INT8_RECIPES STATIC STATIC_ATTENTION Family Recipe "
    "full_recipes modes_of",
    "execute": "run_graph",
    "rounding": "correct_biases simulate",
    "tflite_file": "timing_bytes write_int8 write_tflite",
    "tflite_writer": "tflite_bytes",
    "torch_file": "write_torch",
    "verify": "check_parity compare_logits measure_parity real_logits",
    "vit_as_graph": "ALL_REWRITES DEFAULT_REWRITES NO_REWRITES Rewrites Scales vit_graph",
    "widths": "read_widths",
    "zeros": "rewrites_for",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: looking into a file needs no torch, which takes seconds and gigabytes."""
    for module, names in _WHERE.items():
        if name in names.split():
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
