"""The options that name the model, the data and the pictures of a benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_subject_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``load_subject`` that several benchmarks take: model, checkpoint, data and pictures."""
    parser.add_argument("--model", required=True, help="timm's name of the architecture")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights with a classifier of the dataset")
    parser.add_argument("--data", required=True, help="labelled dataset, as pocketvit run takes it")
    parser.add_argument("--photos", type=Path, nargs=2, metavar=("CALIBRATION", "TEST"), help="folders of photographs")
    parser.add_argument("--img-size", type=int, default=None, help="input side, pixels")
    parser.add_argument("--calibration-images", type=int, default=384)
