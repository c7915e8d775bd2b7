"""How long the files of cut models take, as a share of the whole model's, timed in turns on one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from compress.model.vit import SlicedViT
from device_bench.machine.state import machine_state
from device_bench.timing.isolated import sample_isolated
from device_bench.timing.stats import percentile, ratio_of_medians
from export.formats.tflite import write_int8, write_tflite
from runtime import macs

from .lines import Precision, Spot, TimedSide, TimeLine

_CALIBRATION = 8


def time_models(
    spot: Spot,
    models: Sequence[SlicedViT],
    whole: SlicedViT,
    images: torch.Tensor,
    precision: Precision,
    limit: int,
    rounds: int,
) -> TimeLine:
    """Exports cut models and the whole one as TFLite files and times them, each in every round.

    Args:
        spot: where the cell stands.
        models: one model, or two around the budget.
        whole: the model before the cut.
        images: to calibrate int8 on, ``(N, C, H, W)``; a few are enough, since times hardly depend on ranges.
        precision: of the files.
        limit: the budget, MACs.
        rounds: timed runs of each file.

    Raises:
        MeasurementError: a file cannot be timed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"model-{number}.tflite" for number in range(len(models) + 1)]
        for model, file in zip([whole, *models], files, strict=True):
            if precision == "int8":
                shown = images[:_CALIBRATION].numpy().transpose(0, 2, 3, 1)
                write_int8(model, file, np.ascontiguousarray(shown))
            else:
                write_tflite(model, file)
        timed = sample_isolated(files, rounds=rounds)
    first, *others = timed.seconds
    sides = [
        TimedSide(macs(model.plan), ratio_of_medians(own, first)) for model, own in zip(models, others, strict=True)
    ]
    return TimeLine(
        "time",
        spot,
        precision,
        limit,
        tuple(sides),
        percentile(first, 50),
        machine_state().cpu_model or "",
        timed.notes,
    )
