"""Runs and exports of models in Hugging Face's layout: a folder becomes verified files with its pictures and names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from pocketvit.pipeline.job import PreparedRun, prepare
from pocketvit.settings import RunSettings
from runtime import DataError, PlanError, load, read_artifact
from tests.compress.model.hub.fake_hub import COMMIT, serving
from tests.compress.model.hub.made import LABELS, answers, edit, make
from tests.pocketvit.conftest import Command

ROOT = Path(__file__).resolve().parents[3]
CROP = {"height": 32, "width": 32}
PROCESSORS = {
    "vit": lambda: transformers.ViTImageProcessor(size=CROP, image_mean=[0.4, 0.5, 0.6]),
    "dinov2": lambda: transformers.BitImageProcessor(size={"shortest_edge": 39}, crop_size=CROP),
    "clip": lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=CROP),
}


def draw_pictures(folder: Path, count: int, seed: int = 0, side: int | None = None) -> list[Path]:
    """Writes smooth random pictures of many shapes."""
    folder.mkdir(parents=True)
    generator, paths = np.random.default_rng(seed), []
    for i in range(count):
        height, width = (side, side) if side else generator.integers(40, 90, 2).tolist()
        rough = Image.fromarray(generator.integers(0, 256, (3, 3, 3), np.uint8))
        paths.append(folder / f"{i:03}.png")
        rough.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def tuned(folder: Path, kind: str, pictures: list[Path]) -> tuple[Any, Any]:
    """Saves a model that answers with many classes, and returns it and its image processor."""
    model, processor = make(kind), PROCESSORS[kind]()
    pixels = processor([Image.open(path) for path in pictures], return_tensors="pt")["pixel_values"]
    logits = answers(model, pixels)
    with torch.no_grad():
        model.classifier.bias -= logits.mean(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return model, transformers.AutoImageProcessor.from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_folder_becomes_a_file_with_the_answers_of_transformers(
    pocketvit: Command, tmp_path: Path, kind: str
) -> None:
    pictures = draw_pictures(tmp_path / "photos", 50)
    model, processor = tuned(tmp_path / "model", kind, pictures)
    data = f"unlabelled:{tmp_path / 'photos'}"
    own = ("--model", tmp_path / "model", "--data", data, "--formats", "fp32", "--runs", tmp_path / "runs")
    answer = pocketvit("export", *own)
    assert answer.code == 0, answer.err
    session = load(tmp_path / "runs/model/artifacts/model.fp32.tflite")
    pixels = processor([Image.open(path) for path in pictures], return_tensors="pt")["pixel_values"]
    logits = answers(model, pixels)
    wanted = [model.config.id2label[int(index)] for index in logits.argmax(1)]
    assert len(set(wanted)) >= 3, "one answer for all pictures would prove little"
    two = logits.topk(2, dim=1).values
    clear = (two[:, 0] - two[:, 1]) > 0.02 * logits.abs().max()  # torchvision scales pixels otherwise than Pillow
    assert int(clear.sum()) >= 40
    got = [found.name for found in session.predict(pictures)]
    assert [own for own, sure in zip(got, clear, strict=True) if sure] == [
        name for name, sure in zip(wanted, clear, strict=True) if sure
    ]
    artifact = read_artifact(tmp_path / "runs/model/artifacts/model.fp32.tflite")
    assert artifact.class_names == LABELS
    assert (artifact.provenance.licence, artifact.provenance.origin) == ("apache-2.0", None)


def in_process(root: Path, model: str, **own: str) -> subprocess.CompletedProcess[str]:
    """Exports a model in a process of its own, since ``huggingface_hub`` reads its environment when it is imported."""
    command = [sys.executable, "-m", "pocketvit", "export", "--model", model, "--formats", "fp32"]
    command += ["--data", f"unlabelled:{root / 'photos'}", "--runs", str(root / "runs")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**clean, "HF_HOME": str(root / "cache"), **own}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False)


@pytest.mark.slow
def test_a_repository_is_named_in_the_manifest_and_needs_a_network(tmp_path: Path) -> None:
    tuned(tmp_path / "model", "dinov2", draw_pictures(tmp_path / "photos", 20))
    alone = in_process(tmp_path, "hf:own/dino", HF_HUB_OFFLINE="1")
    assert (alone.returncode, alone.stdout) == (2, "")
    assert alone.stderr.count("error:") == 1
    assert "Traceback" not in alone.stderr
    assert "Go online" in " ".join(alone.stderr.split())
    assert not (tmp_path / "runs").exists()
    with serving({"own/dino": tmp_path / "model"}) as hub:
        done = in_process(tmp_path, "hf:own/dino", HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    artifact = read_artifact(tmp_path / "runs/dino/artifacts/dino.fp32.tflite")
    assert (artifact.provenance.origin, artifact.provenance.licence) == (f"own/dino@{COMMIT}", "apache-2.0")
    assert artifact.provenance.source == f"dinov2 of own/dino@{COMMIT}"
    assert artifact.class_names == LABELS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model_type": "siglip2"}, "patches of free sizes"),
        ({"hidden_size": 10**9}, "'hidden_size'"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "code of a checkpoint is not run"),
        ({"problem_type": "multi_label_classification"}, "independent labels"),
    ],
)
def test_a_folder_that_cannot_be_read_ends_with_one_error(
    pocketvit: Command, tmp_path: Path, fields: dict[str, Any], text: str
) -> None:
    make("vit").save_pretrained(tmp_path / "model")
    edit(tmp_path / "model/config.json", **fields)
    answer = pocketvit("run", "--model", tmp_path / "model", "--runs", tmp_path / "runs")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("error:") == 1
    assert "Traceback" not in answer.err
    assert text in " ".join(answer.err.split())
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``model`` and square pictures of its five classes in ``data``."""
    root = tmp_path_factory.mktemp("known")
    tuned(root / "model", "vit", draw_pictures(root / "some", 5))
    for i, name in enumerate(LABELS):
        draw_pictures(root / "data" / name, 10, seed=i, side=40)
        draw_pictures(root / "other" / name.upper(), 10, seed=i, side=40)
    return root


def prepared(known: Path, data: str = "data", **options: Any) -> PreparedRun:
    settings = RunSettings(data=f"imagefolder:{known / data}", model=str(known / "model"), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare(settings)


def test_a_run_takes_input_names_and_classes_from_the_folder(known: Path) -> None:
    job = prepared(known)
    assert (job.data.class_names, job.task.class_names, job.plan.num_classes) == (LABELS, LABELS, 5)
    assert (job.fine_tuned, job.fine_tune.epochs, job.knows_classes) == (True, 0, True)
    assert (job.task.preprocessing.mean, job.task.preprocessing.resize) == ((0.4, 0.5, 0.6), "stretch")
    assert job.task.source == "vit of model"
    assert job.settings.name == "data-model"
    edit(known / "model/config.json", id2label=dict(enumerate(reversed(LABELS))))
    assert prepared(known).data.class_names == LABELS[::-1]
    edit(known / "model/config.json", id2label=dict(enumerate(LABELS)))


def test_square_pictures_go_through_the_processor_of_the_folder(known: Path) -> None:
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=CROP)
    own = known / "model/preprocessor_config.json"
    before = own.read_text()
    processor.save_pretrained(known / "model")
    try:
        found = prepared(known).task.preprocessing
    finally:
        own.write_text(before)
    assert (found.resize, found.height) == ("center_floor", 32)
    assert int(32 / found.crop_pct) == 36


def test_labels_in_other_words_need_an_order_of_the_user(known: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names other classes.*--class-map"):
        prepared(known, "other")
    order = [name.upper() for name in reversed(LABELS)]
    (tmp_path / "order.json").write_text(json.dumps(order))
    job = prepared(known, "other", class_map=str(tmp_path / "order.json"))
    assert job.task.class_names == job.data.class_names == tuple(order)


def test_a_new_classifier_may_be_trained_on_other_classes(known: Path) -> None:
    job = prepared(known, "other", reset_head=True)
    assert (job.fine_tuned, job.plan.num_classes) == (False, 5)
    assert job.fine_tune.epochs > 0


def test_options_that_contradict_a_model_with_weights_are_refused(known: Path) -> None:
    for options in ({"pretrained": False}, {"checkpoint": "x.pth"}, {"model_args": {"depth": 3}}):
        with pytest.raises(PlanError, match="brings its weights"):
            prepared(known, **options)
    with pytest.raises(PlanError, match="--reset-head needs"):
        prepare(RunSettings(model="vit_tiny_patch16_224", reset_head=True))
