"""Whoever waits for an export hears of every candidate and of all that takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from export.exporter import export_model
from export.settings import ExportSettings

from .conftest import task_for

pytestmark = pytest.mark.slow


def test_every_candidate_is_named_with_its_result(sliced: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    said: list[tuple[str, int, int, str]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        assert 0 <= done <= total
        said.append((stage, done, total, note))

    settings = ExportSettings(kinds=("onnx-int8", "int8"), calibration_images=8, verify_images=40)
    task = task_for(digits, trained=False)
    times = iter([3e-3, 2e-3, 4e-3, 5e-3])
    files = export_model(
        sliced, task, digits, tmp_path, "m", settings, progress, lambda paths: [next(times) for _ in paths]
    )
    for kind, artifact in zip(settings.kinds, files, strict=True):
        ends = [note for stage, done, total, note in said if stage.startswith(f"{kind} try") and done == total]
        assert [note.partition(":")[0] for note in ends] == [trial.recipe for trial in artifact.trials]
        assert all(note.endswith(" s") for note in ends)
        # the chosen one runs on the rest of the images if it was told before
        ends += [note for stage, done, total, note in said if stage == f"{kind} whole" and done == total]
        reached = {note.partition(":")[0]: note for note in ends}
        for trial in artifact.trials:
            assert f"agrees on {trial.top1_agreement:.1%} of {trial.images} images" in reached[trial.recipe]
            assert f"SQNR {trial.sqnr_db:.1f} dB" in reached[trial.recipe]
    stages = {stage for stage, *_ in said}
    assert {"float answers", "int8 calibration", "int8 times", "verify", "export"} <= stages
    (times_said,) = [note for stage, done, total, note in said if stage == "int8 times" and done == total]
    assert "dynamic_wi8_afp32 " in times_said
    assert " ms" in times_said
    # a device's name ends in a colon: a stage of this machine must not look like one
    assert not [stage for stage in stages if ": " in stage]
    for stage in stages:
        last = [own for own in said if own[0] == stage][-1]
        assert last[1] == last[2], f"{stage} never ends"
