"""Files of models that answer with a vector: manifests, figures, limits, and the gate between two of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data.dataset import Dataset
from compress.model.folder import Task
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT, build
from device_bench.gate.judge import Limits
from export.compare import compare_logits
from export.exporter import ExportOutcome, RefusedFilesError, export_each, export_model
from export.gate.limits import ExportLimits, verdict_on
from export.settings import ExportSettings
from pocketvit.cli.tables.models import artifact_table
from pocketvit.jobs.gating import gate_files, gate_stored, update_baseline
from runtime import DataError, OutputForm, Parity, VectorParity, load, read_artifact
from tests.export.conftest import task_for
from tests.export.graph.test_build import model_of
from tests.export.small import SMALL

QUICK = ExportSettings(kinds=("fp32", "int8"), calibration_images=8, verify_images=40, made_for="pi5", gpu_check=False)


def embedder(output: OutputForm = "vector") -> SlicedViT:
    """A model whose vector is its normed class token, of 48 values."""
    model = model_of(replace(SMALL, in_chans=1, num_classes=48, output=output))
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(48))
        model.head.bias.zero_()
    return model


def cut(model: SlicedViT) -> SlicedViT:
    every = keep_all(model.plan)
    return slice_vit(model, KeptUnits(tuple(range(40)), every.blocks))


def with_noise(model: SlicedViT, share: float) -> SlicedViT:
    """Adds noise to every weight of the Linears."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: own + share * own.std() * torch.randn(own.shape, generator=generator) if own.ndim == 2 else own
        for name, own in model.state_dict().items()
    }
    return build(model.plan, weights)


def vectors_task(data: Dataset) -> Task:
    return replace(task_for(data), class_names=())


def exported(folder: Path, model: SlicedViT, data: Dataset, whole: SlicedViT | None = None) -> ExportOutcome:
    free = data.without_labels
    return export_each(model, vectors_task(data), free, folder, "own", replace(QUICK, min_cosine=0.9), whole=whole)


@pytest.mark.parametrize("output", ["vector", "unit_vector"])
def test_every_kind_of_file_returns_the_models_vectors(tmp_path: Path, digits: Dataset, output: OutputForm) -> None:
    model, data = embedder(output), digits.without_labels
    kinds = ("fp32", "fp16", "onnx", "int8", "onnx-int8", "torch", "int8-full", "static-int8")
    for group in (kinds[:6], kinds[6:7], kinds[7:]):
        static = group == ("static-int8",)
        settings = replace(QUICK, kinds=group, min_cosine=0.9, made_for="static-int8" if static else "pi5")
        for artifact in export_model(model, vectors_task(digits), data, tmp_path, "own", settings):
            assert (artifact.output_kind, artifact.class_names, artifact.output.shape[-1]) == ("vector", (), 48)
            assert (artifact.parity.top1_agreement, artifact.parity.top1) == (None, None)
            assert artifact.half is None or artifact.half.top1_agreement is None
            assert artifact.parity.top1_reason == "the output is not classes"
            assert artifact.parity.vectors is not None
            assert artifact.parity.vectors.cosine > (0.9 if "int8" in artifact.precision else 0.99999)
            assert artifact.parity.vectors.whole_cosine is None
            assert artifact.precision != "fp16" or artifact.half is not None
            assert all(trial.top1_agreement is None and trial.cosine is not None for trial in artifact.trials)
            assert read_artifact(tmp_path / artifact.file) == artifact
            session = load(tmp_path / artifact.file)
            vectors = session.values([data.images[0], data.images[1]])
            assert vectors.shape == (2, 48)
            if output == "unit_vector":
                assert np.allclose(
                    np.linalg.norm(vectors, axis=1), 1, atol=0.1 if "full" in artifact.precision else 0.02
                )


def test_a_vector_of_zeros_is_no_nan_in_files(tmp_path: Path, digits: Dataset) -> None:
    model = embedder("unit_vector")
    with torch.no_grad():
        model.head.weight.zero_()
    task = replace(vectors_task(digits), trained=False)
    settings = replace(QUICK, kinds=("fp32", "onnx"))
    for artifact in export_model(model, task, digits.without_labels, tmp_path, "own", settings):
        vectors = load(tmp_path / artifact.file).values([digits.images[0]])
        assert np.array_equal(vectors, np.zeros((1, 48), np.float32))


def test_a_file_far_from_the_float_model_is_refused_by_its_cosine(tmp_path: Path, digits: Dataset) -> None:
    settings = replace(QUICK, kinds=("int8",), min_cosine=1.0)
    with pytest.raises(
        RefusedFilesError, match=r"vectors of own\.int8\.tflite are too far .* a mean cosine of at least 1"
    ):
        export_model(embedder(), vectors_task(digits), digits.without_labels, tmp_path, "own", settings)
    with pytest.raises(DataError, match=r"min_cosine is a cosine\. Expected 0 to 1\. Got 2"):
        replace(QUICK, min_cosine=2.0)


def test_the_table_of_files_has_the_figures_of_vectors_and_no_empty_column(tmp_path: Path, digits: Dataset) -> None:
    settings = replace(QUICK, kinds=("fp32",))
    of_vectors = export_model(embedder(), vectors_task(digits), digits.without_labels, tmp_path / "v", "own", settings)
    of_classes = export_model(
        model_of(replace(SMALL, in_chans=1)),
        replace(task_for(digits), trained=False),
        digits,
        tmp_path,
        "own",
        settings,
    )
    vectors, classes = ([own.header for own in artifact_table(made).columns] for made in (of_vectors, of_classes))
    assert {"SQNR", "cosine", "neighbours"} <= set(vectors)
    assert not {"agrees", "top-1", "torch top-1"} & set(vectors)
    assert {"agrees", "top-1", "torch top-1"} <= set(classes)
    assert not {"cosine", "neighbours"} & set(classes)


def test_the_verdict_on_a_cosine() -> None:
    parity = Parity(50, 1.0, 0.1, 20.0, None, None, None, "no classes", vectors=VectorParity(0.97, 1.0))
    refusal = verdict_on(parity, ExportLimits(cosine=0.98), 1.645, file="m.int8.tflite").refusal
    assert "The vectors of m.int8.tflite are too far from the float model's" in str(refusal)
    assert "Expected a mean cosine of at least 0.98. Got 0.9700 on 50 images" in str(refusal)
    assert verdict_on(parity, ExportLimits(cosine=0.97), 1.645).refusal is None


def test_answers_that_are_not_finite_have_no_cosine() -> None:
    wanted = np.ones((20, 4), np.float32)
    found = compare_logits(np.full((20, 4), np.nan, np.float32), wanted, None, classes=False).vectors
    assert found == VectorParity(0.0, None)


def test_a_file_of_a_cut_model_is_compared_with_the_whole_model(tmp_path: Path, digits: Dataset) -> None:
    whole = embedder()
    for artifact in exported(tmp_path, cut(whole), digits, whole).accepted:
        found = artifact.parity.vectors
        assert found is not None
        assert found.whole_cosine is not None
        assert found.whole_cosine < found.cosine
        assert found.whole_neighbours is not None


def test_a_gate_fails_a_file_with_noise_in_its_weights_by_name(tmp_path: Path, digits: Dataset) -> None:
    whole = embedder()
    good = cut(whole)
    for name, model in (("good", good), ("same", good), ("bad", with_noise(good, 0.3))):
        exported(tmp_path / name, model, digits, whole)
    loose = Limits(max_slowdown_percent=None, max_memory_growth_percent=None)
    base, same, bad = (tmp_path / name / "own.fp32.tflite" for name in ("good", "same", "bad"))
    assert gate_files(base, same, loose, timed=False).passed
    gate = gate_files(base, bad, loose, timed=False)
    assert "cosine with the whole model" in gate.exceeded
    assert set(gate.exceeded) <= {"cosine with the whole model", "neighbours of the whole model"}
    assert "top-1" not in [check.metric for check in gate.checks]
    baseline = tmp_path / "baseline.json"
    update_baseline(baseline, [base])
    assert json.loads(baseline.read_text())["facts"][0]["whole_cosine"] is not None
    (stored,) = gate_stored(baseline, [bad], loose)
    assert "cosine with the whole model" in stored.exceeded


@pytest.mark.parametrize(
    ("vectors", "changes", "text"),
    [
        (True, {"min_agreement": 0.9}, "The model answers with a vector. Expected no --min-agreement."),
        (True, {"kinds": ("int8-full",), "qat_epochs": 1}, "The model answers with a vector. Expected no --qat."),
        (False, {"min_cosine": 0.9}, "The model answers with classes. Expected no --min-cosine."),
    ],
)
def test_limits_of_another_kind_of_output_are_refused(
    tmp_path: Path, digits: Dataset, vectors: bool, changes: dict[str, Any], text: str
) -> None:
    model = embedder() if vectors else model_of(replace(SMALL, in_chans=1))
    task = vectors_task(digits) if vectors else task_for(digits)
    with pytest.raises(DataError) as caught:
        export_model(model, task, digits, tmp_path / "new", "own", replace(QUICK, **changes))
    assert text in str(caught.value)
    assert not (tmp_path / "new").exists()
