"""Pictures of a folder calibrate in place of held-out ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from export.exporter import export_model
from export.settings import ExportSettings
from runtime import DataError
from tests.export.conftest import task_for

SETTINGS = ExportSettings(("int8",), verify_images=20, min_agreement=0.0, int8_recipe="static_wi8_ai8_float_islands")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for i in range(6):
        (tmp_path / "pictures" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / str(i % 2) / f"{i}.png")
    return tmp_path / "pictures"


def test_pictures_of_a_folder_set_the_ranges(sliced: SlicedViT, digits: Dataset, folder: Path, tmp_path: Path) -> None:
    task, out = task_for(digits), tmp_path / "out"
    (plain,) = export_model(sliced, task, digits, out, "m", SETTINGS)
    before = (out / plain.file).read_bytes()
    (made,) = export_model(sliced, task, digits, out, "m", replace(SETTINGS, calibration_data=str(folder)))
    assert made.calibration is not None
    assert made.calibration.data.startswith("unlabelled:pictures ")
    assert (made.calibration.split, made.calibration.images) == ("all", 6)
    assert (out / made.file).read_bytes() != before
    stamp = (out / made.file).stat().st_mtime_ns
    export_model(sliced, task, digits, out, "m", replace(SETTINGS, calibration_data=str(folder)))
    assert (out / made.file).stat().st_mtime_ns == stamp
    (few,) = export_model(
        sliced, task, digits, out, "m", replace(SETTINGS, calibration_data=str(folder), calibration_images=3)
    )
    assert few.calibration is not None
    assert few.calibration.images == 3


def test_a_folder_that_is_not_there_is_refused_before_anything_is_written(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="does not exist"):
        export_model(
            sliced, task_for(digits), digits, out, "m", replace(SETTINGS, calibration_data=str(tmp_path / "nowhere"))
        )
    assert not out.exists()
