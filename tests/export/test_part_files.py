"""Whole exports of models with parts that a plain Vision Transformer lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.data.dataset import Dataset
from export.exporter import export_model
from export.inspect.inspection import inspect_file
from export.settings import ExportSettings
from runtime import UnsupportedTargetError
from tests.export.conftest import task_for
from tests.export.part_plans import PART_PLANS
from tests.export.test_gpu import sharp_model

SETTINGS = ExportSettings(calibration_images=16, verify_images=32, min_agreement=0)
FLOAT = ("fp32", "fp16", "onnx", "torch")


@pytest.mark.parametrize("name", [name for name, plan in PART_PLANS.items() if plan.output == "classes"])
def test_float_files_keep_the_answers(name: str, digits: Dataset, tmp_path: Path) -> None:
    model = sharp_model(replace(PART_PLANS[name], in_chans=1, img_size=(32, 32)))
    kinds = ("fp32", "onnx") if name.endswith("average") else FLOAT
    for artifact in export_model(model, task_for(digits), digits, tmp_path, "m", replace(SETTINGS, kinds=kinds)):
        assert artifact.refused is None
        assert artifact.plan == model.plan
        assert artifact.parity.top1_agreement == 1.0
        assert artifact.parity.sqnr_db is not None
        assert artifact.parity.sqnr_db > (50 if artifact.precision == "fp16" else 100)
        assert inspect_file(tmp_path / artifact.file, time=False).widths is not None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("attention-pool", "int8-full"),
        ("attention-pool", "static-int8"),
        ("texts", "int8"),
        ("texts", "int8-full"),
        ("texts", "onnx-int8"),
        ("texts-and-pool", "static-int8"),
        ("position-bias-and-token", "onnx-int8"),
        ("position-bias", "static-int8"),
        ("post-norm", "int8"),
        ("parallel", "static-int8"),
        ("stem", "int8-full"),
        pytest.param("texts", "tflite-micro", marks=pytest.mark.slow),
        pytest.param("stem", "tflite-micro", marks=pytest.mark.slow),
        pytest.param("position-bias", "tflite-micro", marks=pytest.mark.slow),
        pytest.param("attention-pool", "tflite-micro", marks=pytest.mark.slow),
    ],
)
def test_integer_files_are_near_the_float_model(name: str, kind: str, digits: Dataset, tmp_path: Path) -> None:
    model = sharp_model(replace(PART_PLANS[name], in_chans=1, img_size=(32, 32)))
    (artifact,) = export_model(model, task_for(digits), digits, tmp_path, "m", replace(SETTINGS, kinds=(kind,)))
    assert artifact.refused is None
    assert artifact.parity.sqnr_db is not None
    assert artifact.parity.sqnr_db > 18


def test_compilers_of_integers_alone_refuse_a_stem(digits: Dataset, tmp_path: Path) -> None:
    model = sharp_model(replace(PART_PLANS["stem"], in_chans=1, img_size=(32, 32)))
    with pytest.raises(UnsupportedTargetError, match="is not an integer"):
        export_model(model, task_for(digits), digits, tmp_path, "m", replace(SETTINGS, kinds=("static-int8",)))
    assert not list(tmp_path.glob("m*"))
