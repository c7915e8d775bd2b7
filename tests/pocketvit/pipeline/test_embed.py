"""A run whose model answers with a vector: what it takes, what it refuses, and its files, tables and pictures."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from compress.data.dataset import UNLABELLED
from compress.model.folder import read_model, read_task
from compress.vectors import mean_cosine
from device_bench.report.summary import summarise
from pocketvit.options import run_settings
from pocketvit.pipeline import run as pipeline
from pocketvit.pipeline.bases import whole_model
from pocketvit.pipeline.job import PreparedRun, prepare
from pocketvit.settings import RunSettings
from pocketvit.train_settings import TrainSettings
from runtime import METRICS_DOCUMENT, DataError, ModelError, PlanError, PocketVitWarning, load, read_artifact
from tests.pocketvit.conftest import Command

SHAPE: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a classifier of seven classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(MODEL, img_size=32, patch_size=16, in_chans=1, num_classes=7, **SHAPE)
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(dict(model.state_dict()), path)
    return path


def settings_of(weights: Path | None, **changes: Any) -> RunSettings:
    given: dict[str, Any] = {
        "task": "embed",
        "model": MODEL,
        "img_size": 32,
        "patch_size": 16,
        "in_chans": 1,
        "model_args": SHAPE,
        "checkpoint": str(weights) if weights else None,
        "recover": TrainSettings(epochs=2, batch_size=16, lr=1e-3),
        "train_limit": 120,
        "basis_images": 24,
        "basis_copies": 0,
        "calibration_images": 4,
        "verify_images": 30,
        "min_cosine": 0.5,
        "made_for": "pi5",
        "gpu_check": False,
        "threads": 1,
    }
    return RunSettings(**given | changes)


def prepared(weights: Path | None, **changes: Any) -> PreparedRun:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        return prepare(settings_of(weights, **changes))


def test_no_label_is_read_and_the_classifier_is_left_out_and_said(weights: Path) -> None:
    job = prepared(weights)
    assert (job.labelled, job.fine_tune.epochs, job.task.trained, job.task.class_names) == (False, 0, True, ())
    assert set(job.data.labels) == {UNLABELLED}
    assert (job.plan.output, job.plan.num_classes) == ("vector", 32)
    assert "The classifier of 7 classes is left out" in job.notes[-1]
    assert job.lesson is not None
    assert job.lesson.methods == ("response", "tokens")


def test_the_length_of_the_vector_and_its_norm_are_those_asked_for(weights: Path) -> None:
    job = prepared(weights, embed_dim=10, normalise=True)
    assert (job.plan.output, job.plan.num_classes) == ("unit_vector", 10)
    model = whole_model(job)
    assert model.plan == job.plan
    long = whole_model(prepared(weights, normalise=True))
    images = torch.rand(20, 1, 32, 32)
    with torch.no_grad():
        short, whole = model(images), long(images) @ model.head.weight.T
    assert torch.allclose(short.norm(dim=1), torch.ones(20), atol=1e-5)
    assert mean_cosine(short.numpy(), whole.numpy()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        (ModelError, {"checkpoint": None}, "has fresh weights, and without labels nothing trains them"),
        (PlanError, {"search": "tas"}, "--search tas trains on classes, and a vector has none"),
        (PlanError, {"importance": "taylor"}, "The importance taylor needs the gradient of a loss"),
        (PlanError, {"qat_epochs": 1}, "--qat trains a classifier under rounding"),
        (PlanError, {"class_map": "names.txt"}, "A vector has no classes to name"),
        (PlanError, {"min_agreement": 0.9}, "Give --min-cosine"),
        (PlanError, {"max_drop": 1.0}, "Labels alone can tell"),
        (PlanError, {"embed_dim": 33}, "Expected --embed-dim 1 to 32, the model's own. Got 33"),
        (PlanError, {"embed_dim": 0}, "Expected --embed-dim 1 to 32, the model's own. Got 0"),
    ],
)
def test_what_needs_classes_is_refused(weights: Path, kind: Any, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(kind) as caught:
        prepared(weights, **changes)
    assert text in str(caught.value)


def test_the_options_are_for_vectors_alone() -> None:
    given = run_settings({"task": "embed", "embed-dim": "64", "normalise": True, "min-cosine": "0.95"})
    assert (given.output, given.embed_dim, given.min_cosine, given.uses_labels) == ("unit_vector", 64, 0.95, False)
    with pytest.raises(PlanError, match=r"Expected --task embed with them\. Got --min-cosine"):
        prepare(run_settings({"min-cosine": "0.9"}))
    for options in ({"embed-dim": "64"}, {"normalise": True}):
        with pytest.raises(PlanError, match=r"models that answer with a vector\. Expected --task embed with them"):
            run_settings(options)


def test_a_rectangular_size_resamples_the_positions(weights: Path) -> None:
    with pytest.warns(PocketVitWarning, match="positions 2x2 to 2x4"):
        model = whole_model(prepared(weights, img_size=(32, 64)))
    assert model.plan.img_size == (32, 64)
    with torch.no_grad():
        assert model(torch.rand(2, 1, 32, 64)).shape == (2, 32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A finished run of an embedding model."""
    root = tmp_path_factory.mktemp("runs") / "own"
    bench = pipeline.BenchSettings(
        replace(pipeline.BenchSettings().sampling, seconds=0.05), throughput_s=0.0, energy=False, times_s=0.0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        pipeline.run(settings_of(weights, kinds=("fp32", "int8")), root, bench=bench)
    return root


@pytest.mark.slow
def test_the_cut_model_follows_the_whole_one_in_its_coordinates(finished: Path) -> None:
    baseline, sliced = (METRICS_DOCUMENT.read(finished / name / "metrics.json") for name in ("baseline", "sliced"))
    assert sliced.macs <= 0.75 * baseline.macs
    assert (sliced.top1, sliced.top1_reason) == (None, "the model answers with a vector, not with classes")
    assert all((own.held_out_top1, own.held_out_divergence) == (None, None) for own in sliced.epochs)
    assert all(own.held_out_cosine is not None for own in sliced.epochs)
    found = sliced.test_whole
    assert found is not None
    assert (found.agreement, found.cosine_reason) == (None, None)
    assert found.cosine is not None
    assert found.neighbours is not None
    assert found.own_neighbours is not None
    assert found.cosine > 0.9
    models = [read_model(finished / name) for name in ("baseline", "sliced")]
    job = prepared(Path(json.loads((finished / "run.json").read_text())["settings"]["checkpoint"]))
    pixels = np.stack([np.asarray(job.data.images[int(i)].resize((32, 32))) for i in job.data.test[:20]])
    images = torch.from_numpy(pixels[:, None].astype(np.float32) / 255 - 0.5)
    with torch.no_grad():
        whole, cut = (model(images).numpy() for model in models)
    assert mean_cosine(cut, whole) > 0.9
    assert read_task(finished / "sliced").class_names == ()


@pytest.mark.slow
def test_tables_and_report_show_cosine_and_neighbours(finished: Path, pocketvit: Command) -> None:
    summary = summarise(finished)
    rows = {row.name: row for row in summary.rows}
    whole = METRICS_DOCUMENT.read(finished / "sliced" / "metrics.json").test_whole
    assert whole is not None
    assert (rows["sliced"].whole_cosine, rows["sliced"].whole_neighbours) == (whole.cosine, whole.neighbours)
    assert rows["own.int8.tflite"].cosine is not None
    assert rows["own.int8.tflite"].whole_cosine is not None
    assert rows["sliced"].own_neighbours == whole.own_neighbours
    assert rows["own.int8.tflite"].own_neighbours is not None
    answer = pocketvit("report", finished)
    assert answer.code == 0, answer.err
    shown = " ".join(answer.out.split())
    assert "cosine" in shown
    assert "neighbours" in shown
    assert "top-1" not in shown
    assert "agrees" not in shown
    page = (finished / "report.html").read_text()
    for text in ("Cosine with the whole model", "Neighbours of the whole model", "Held-out cosine", "Mean cosine"):
        assert text in page
    assert "in an index of its own vectors" in page
    assert "Same top-1" not in page


@pytest.mark.slow
def test_predict_returns_vectors_and_draws_the_nearest_pictures(
    finished: Path, pocketvit: Command, tmp_path: Path
) -> None:
    job = prepared(Path(json.loads((finished / "run.json").read_text())["settings"]["checkpoint"]))
    for index in job.data.test[:4]:
        job.data.images[int(index)].save(tmp_path / f"{index}.png")
    file = finished / "artifacts" / "own.int8.tflite"
    answer = pocketvit("predict", file, tmp_path, "--json", "--plot", tmp_path / "near.jpg")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["predictions"]
    session = load(file)
    vectors = session.values([own["image"] for own in found])
    for row, own in enumerate(found):
        assert np.allclose(own["values"], vectors[row])
        cosines = [near["cosine"] for near in own["nearest"]]
        assert cosines == sorted(cosines, reverse=True)
        first = next(at for at, other in enumerate(found) if other["image"] == own["nearest"][0]["image"])
        assert cosines[0] == pytest.approx(mean_cosine(vectors[row : row + 1], vectors[first : first + 1]), abs=1e-6)
        assert own["image"] not in [near["image"] for near in own["nearest"]]
    with Image.open(tmp_path / "near.jpg") as picture:
        assert picture.width > 4 * 176
        assert picture.height > 4 * 176
    (tmp_path / "near.jpg").unlink()
    answer = pocketvit("predict", file, next(tmp_path.glob("*.png")), "--plot", tmp_path / "one.png")
    assert answer.code == 2
    assert "The nearest picture is looked for among several" in answer.err
    assert not (tmp_path / "one.png").exists()
    assert read_artifact(file).output_kind == "vector"


@pytest.mark.slow
def test_such_a_run_is_exported_again_with_its_own_limits(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(finished, root)
    with pytest.raises(DataError, match=r"The model answers with a vector\. Expected no --min-agreement"):
        pipeline.export_run(root, RunSettings(kinds=("onnx",), verify_images=12, min_agreement=0.9))
    made = pipeline.export_run(root, RunSettings(kinds=("onnx",), verify_images=12, min_cosine=0.9))
    own = next(artifact for artifact in made if artifact.file == "own.onnx")
    assert own.parity.vectors is not None
    assert own.parity.vectors.whole_cosine == pytest.approx(
        METRICS_DOCUMENT.read(root / "sliced" / "metrics.json").test_whole.cosine, abs=0.05
    )


@pytest.mark.slow
def test_a_search_by_answers_counts_whose_vector_is_nearest(weights: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"budget": "macs=0.9", "importance_images": 1, "recover": TrainSettings(epochs=0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        pipeline.compress(settings_of(weights, search="greedy", **changes), tmp_path / "own")
    found = METRICS_DOCUMENT.read(tmp_path / "own" / "sliced" / "metrics.json").test_whole
    assert found is not None
    assert found.cosine is not None
    assert found.cosine > 0.9
