"""Writes the default model as it is before training, in the formats of the main job, to hold against the baseline.

    python .ci/default_artifacts.py FOLDER

Weights are fresh, by seed: what the gate looks at is how a model is written, and that does not depend on them. The
recipe of int8 is the one for a named processor, since one chosen by time could change from day to day.
"""

from __future__ import annotations

import sys
from pathlib import Path

from compress.model.load import load_model
from export.exporter import export_model
from export.settings import ExportSettings
from pocketvit.pipeline.job import prepare
from pocketvit.settings import RunSettings


def main(folder: Path) -> None:
    """Writes ``default.fp32.tflite``, ``default.int8.tflite`` and ``default.onnx``."""
    job = prepare(RunSettings())
    model = load_model(job.spec, job.data.num_classes, seed=0)
    kinds = ("fp32", "int8", "onnx")
    settings = ExportSettings(kinds=kinds, made_for="pi5", min_agreement=0.0, verify_images=100, calibration_images=32)
    export_model(model, job.task, job.data, folder, "default", settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
