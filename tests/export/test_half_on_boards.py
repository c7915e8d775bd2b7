"""XNNPACK computes our float16 files in float16 on an emulated Cortex-A76, by their metadata alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_bench.targets.emulated import count_instructions
from export.formats.tflite import HALF_ARITHMETIC, write_tflite
from runtime import BlockPlan, ShapePlan
from tests.export.graph.test_build import model_of

pytestmark = [pytest.mark.slow, pytest.mark.boards]

WIDE = ShapePlan((32, 32), (8, 8), 3, 10, 192, (BlockPlan(3, 64, 64, 768),) * 2, 0.125)


def test_a_file_with_the_metadata_takes_about_half_of_the_instructions(tmp_path: Path) -> None:
    model = model_of(WIDE)
    for name, arithmetic in (("single", ""), ("half", HALF_ARITHMETIC)):
        write_tflite(model, tmp_path / f"{name}.tflite", half=True, arithmetic=arithmetic)
    found = count_instructions("pi5", sorted(tmp_path.glob("*.tflite")), 1)
    assert found["half.tflite"].of("all") < 0.6 * found["single.tflite"].of("all")
