"""Files of models that answer with a grid of patches: shapes, names, figures, limits, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data.dataset import Dataset
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT
from device_bench.gate.judge import Limits
from export.exporter import export_each, export_model
from export.settings import ExportSettings
from pocketvit.jobs.gating import gate_files, gate_stored, update_baseline
from runtime import ArtifactError, DataError, load, read_artifact
from tests.export.graph.test_build import model_of
from tests.export.small import SMALL
from tests.export.test_vectors import vectors_task, with_noise

QUICK = ExportSettings(calibration_images=8, verify_images=12, made_for="pi5", gpu_check=False, min_cosine=0.9)


def grid_model(*inner: int) -> SlicedViT:
    """A model whose grid holds the normed tokens of its patches, of 48 values for each block."""
    model = model_of(replace(SMALL, in_chans=1, num_classes=48, output="grid", pooling="avg", grid_blocks=inner))
    with torch.no_grad():
        for head in (model.head, *(tap.head for tap in (model.taps if inner else ()))):
            head.weight.copy_(torch.eye(48))
            head.bias.zero_()
    return model


@pytest.mark.parametrize("kinds", [("fp32", "fp16", "onnx", "torch"), ("int8", "onnx-int8"), ("int8-full",)])
def test_every_kind_of_file_returns_the_models_grid(tmp_path: Path, digits: Dataset, kinds: tuple[str, ...]) -> None:
    model, data = grid_model(1), digits.without_labels
    for artifact in export_model(model, vectors_task(digits), data, tmp_path, "own", replace(QUICK, kinds=kinds)):
        assert (artifact.output_kind, artifact.class_names) == ("grid", ())
        assert (artifact.output.shape[1:], artifact.output.layout) == (model.plan.output_shape, "NHWC")
        assert artifact.format == "torch" or artifact.output.name.partition(".")[0] == "features"
        found = artifact.parity.vectors
        assert found is not None
        assert found.cosine > (0.9 if "int8" in artifact.precision else 0.99999)
        assert found.neighbours is not None
        assert all(trial.cosine is not None for trial in artifact.trials)
        assert read_artifact(tmp_path / artifact.file) == artifact
        values = load(tmp_path / artifact.file).values([data.images[0], data.images[1]])
        assert values.shape == (2, *model.plan.output_shape)


def test_a_cut_model_is_compared_with_the_whole_ones_grid(tmp_path: Path, digits: Dataset) -> None:
    whole = grid_model()
    cut = slice_vit(whole, KeptUnits(tuple(range(40)), keep_all(whole.plan).blocks))
    settings = replace(QUICK, kinds=("fp32",))
    (made,) = export_each(
        cut, vectors_task(digits), digits.without_labels, tmp_path, "own", settings, whole=whole
    ).accepted
    found = made.parity.vectors
    assert found is not None
    assert found.whole_cosine is not None
    assert found.whole_cosine < found.cosine
    assert found.whole_neighbours is not None


def test_a_gate_fails_a_grid_with_noise_in_its_weights_by_name(tmp_path: Path, digits: Dataset) -> None:
    whole = grid_model(1)
    settings = replace(QUICK, kinds=("fp32",), verify_images=40)
    for name, model in (("good", whole), ("same", whole), ("bad", with_noise(whole, 0.3))):
        outcome = export_each(
            model, vectors_task(digits), digits.without_labels, tmp_path / name, "own", settings, whole=whole
        )
        assert not outcome.refused
    loose = Limits(max_slowdown_percent=None, max_memory_growth_percent=None)
    base, same, bad = (tmp_path / name / "own.fp32.tflite" for name in ("good", "same", "bad"))
    assert gate_files(base, same, loose, timed=False).passed
    assert "cosine with the whole model" in gate_files(base, bad, loose, timed=False).exceeded
    baseline = tmp_path / "baseline.json"
    update_baseline(baseline, [base])
    (stored,) = gate_stored(baseline, [bad], loose)
    assert "cosine with the whole model" in stored.exceeded


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"min_agreement": 0.9}, "The model answers with a grid. Expected no --min-agreement."),
        ({"app": True}, "The model answers with a grid. Expected no --app."),
    ],
)
def test_what_is_for_classes_or_apps_is_refused(
    tmp_path: Path, digits: Dataset, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(DataError) as caught:
        export_model(grid_model(), vectors_task(digits), digits, tmp_path / "new", "own", replace(QUICK, **changes))
    assert text in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_manifest_of_another_grid_is_refused(tmp_path: Path, digits: Dataset) -> None:
    (made,) = export_model(
        grid_model(), vectors_task(digits), digits.without_labels, tmp_path, "own", replace(QUICK, kinds=("fp32",))
    )
    path = tmp_path / f"{made.file}.json"
    path.write_text(path.read_text().replace('"output": "grid"', '"output": "grid", "grid_blocks": [1]'))
    with pytest.raises(ArtifactError, match=r"not that of its plan\. Expected grid \("):
        read_artifact(tmp_path / made.file)
    assert np.prod(made.output.shape) > 0
