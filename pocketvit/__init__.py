"""PocketViT: makes a Vision Transformer physically smaller, exports it, and proves what that bought.

The same jobs as the command line, as functions::

    import pocketvit
    summary = pocketvit.run(pocketvit.RunSettings(budget="macs=0.6"), "runs/mine")
    session = pocketvit.load("runs/mine/artifacts/mine.int8.tflite")

Names are loaded when used, so that ``load`` works where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .shadowed import check_packages

if TYPE_CHECKING:
    from compress import load_data, load_model, read_model, slice_vit
    from device_bench import bench, summarise, write_report
    from export import ExportSettings, export_model
    from runtime import BlockPlan, PocketVitError, Session, ShapePlan, load

    from .distill_settings import DistillSettings
    from .distilling import distill
    from .pipeline import compress, export, export_run, run
    from .settings import RunSettings, TrainSettings

_HOMES = {
    "runtime": ("BlockPlan", "PocketVitError", "Session", "ShapePlan", "load"),
    "compress": ("load_data", "load_model", "read_model", "slice_vit"),
    "export": ("ExportSettings", "export_model"),
    "device_bench": ("bench", "summarise", "write_report"),
    "pocketvit.distill_settings": ("DistillSettings",),
    "pocketvit.distilling": ("distill",),
    "pocketvit.pipeline": ("compress", "export", "export_run", "run"),
    "pocketvit.settings": ("RunSettings", "TrainSettings"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BlockPlan",
    "DistillSettings",
    "ExportSettings",
    "PocketVitError",
    "RunSettings",
    "Session",
    "ShapePlan",
    "TrainSettings",
    "bench",
    "compress",
    "distill",
    "export",
    "export_model",
    "export_run",
    "load",
    "load_data",
    "load_model",
    "read_model",
    "run",
    "slice_vit",
    "summarise",
    "write_report",
]

check_packages()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pocketvit' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
