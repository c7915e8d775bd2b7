"""Zero-shot classifiers of the command line: names, labels, files, a run with a budget, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data.batches import plain_batches
from compress.model.folder import read_model, read_task
from device_bench.report.summary import summarise
from pocketvit.distill_settings import DistillSettings
from pocketvit.jobs.distilling import distill
from pocketvit.options import run_settings
from pocketvit.pipeline import run as pipeline
from pocketvit.pipeline.job import PreparedRun, prepare
from pocketvit.settings import RunSettings
from pocketvit.train_settings import TrainSettings
from runtime import (
    METRICS_DOCUMENT,
    DataError,
    ModelError,
    PlanError,
    RunFolderError,
    load,
    macs,
    read_artifact,
)
from tests.compress.texts import DIGITS, TwoTowers, two_towers, written
from tests.pocketvit.conftest import Command

TURNED = DIGITS[::-1]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(no preprocessor_config|Left out of|classifier of|recovery did not help|near chance|logit_scale)"
)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def towers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TwoTowers:
    """A model whose texts are digits, in another order than that of the data."""
    return two_towers(tmp_path_factory.mktemp(request.param), request.param, TURNED)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TwoTowers:
    return two_towers(tmp_path_factory.mktemp("one"), "clip", TURNED)


def settings_of(towers: TwoTowers, **changes: Any) -> RunSettings:
    given: dict[str, Any] = {
        "model": str(towers.folder),
        "text_embeddings": str(towers.texts),
        "recover": TrainSettings(epochs=1, batch_size=16, lr=1e-4),
        "train_limit": 120,
        "basis_images": 24,
        "basis_copies": 0,
        "calibration_images": 8,
        "verify_images": 40,
        "min_agreement": 0.5,
        "made_for": "pi5",
        "gpu_check": False,
        "threads": 1,
    }
    return RunSettings(**given | changes)


def prepared(towers: TwoTowers, own_classes: bool = False, **changes: Any) -> PreparedRun:
    return prepare(settings_of(towers, **changes), own_classes=own_classes)


def test_labels_are_mapped_by_name_and_nothing_is_trained_first(clip: TwoTowers) -> None:
    job, plain = prepared(clip), prepare(RunSettings(train_limit=120, threads=1))
    assert (job.plan.num_classes, job.plan.text_dim, job.task.class_names) == (10, 24, TURNED)
    assert (job.labelled, job.fine_tune.epochs, job.fine_tuned, job.knows_classes) == (True, 0, True, True)
    assert job.data.class_names == TURNED
    assert [TURNED[label] for label in job.data.labels] == [plain.data.class_names[own] for own in plain.data.labels]
    assert job.task.source.endswith(", text embeddings of texts.npz")


def test_without_labels_the_texts_are_the_classes(clip: TwoTowers, tmp_path: Path) -> None:
    names = np.array(["zero", "one", "two"])
    texts = written(tmp_path, names=names, vectors=np.eye(3, 24))
    job = prepared(clip, labels=False, text_embeddings=str(texts))
    assert (job.labelled, job.task.class_names, job.data.class_names) == (False, tuple(names), tuple(names))
    assert job.lesson is not None
    assert job.lesson.methods == ("response", "tokens")


def test_an_export_takes_pictures_of_other_classes(clip: TwoTowers, tmp_path: Path) -> None:
    texts = written(tmp_path, names=np.array(["zero", "one", "two"]), vectors=np.eye(3, 24))
    job = prepared(clip, own_classes=True, text_embeddings=str(texts))
    assert (job.task.class_names, job.data.class_names, job.fine_tuned) == (("zero", "one", "two"), DIGITS, False)


def test_a_scale_that_is_a_logarithm_is_noted(clip: TwoTowers, tmp_path: Path) -> None:
    texts = written(tmp_path, names=np.array(DIGITS), vectors=np.eye(10, 24), logit_scale=np.log(100))
    assert "looks like the logarithm" in prepared(clip, text_embeddings=str(texts)).notes[-1]


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        (PlanError, {"task": "embed"}, "makes a classifier of an image tower. Expected no --task"),
        (PlanError, {"task": "dense"}, "makes a classifier of an image tower. Expected no --task"),
        (PlanError, {"model": ""}, "needs the image tower of a model"),
        (PlanError, {"class_map": "names.txt"}, "Expected no --class-map with --text-embeddings"),
        (PlanError, {"class_order": "natural"}, "Expected no --class-order with --text-embeddings"),
        (PlanError, {"reset_head": True}, "Expected no --reset-head with --text-embeddings"),
        (ModelError, {"model": "vit_base_patch16_siglip_224"}, "has fresh weights, which were not trained with texts"),
        (ModelError, {"model": "swin_tiny_patch4_window7_224"}, "uses window attention, which is not supported"),
        (DataError, {"text_embeddings": "none.npz"}, "none.npz does not exist. Change --text-embeddings"),
    ],
)
def test_what_does_not_fit_is_refused(
    clip: TwoTowers, tmp_path: Path, kind: Any, changes: dict[str, Any], text: str
) -> None:
    if str(changes.get("model")).startswith("vit"):
        changes["text_embeddings"] = str(written(tmp_path, vectors=np.ones((3, 768), np.float32)))
    with pytest.raises(kind) as caught:
        prepared(clip, **changes)
    assert text.lower() in str(caught.value).lower()


def test_the_command_names_what_is_wrong_and_writes_nothing(
    clip: TwoTowers, tmp_path: Path, pocketvit: Command
) -> None:
    runs = tmp_path / "runs"
    common = ("--model", clip.folder, "--runs", runs, "--threads", "1", "--text-embeddings")
    wide = written(tmp_path, names=np.array(DIGITS), vectors=np.ones((10, 25), np.float32))
    answer = pocketvit("run", *common, wide)
    assert (answer.code, answer.out, runs.exists()) == (2, "", False)
    assert "Expected vectors of 24 values, as the tower gives them. Got 25 values." in " ".join(answer.err.split())
    other = written(tmp_path, names=np.array([*DIGITS[:9], "ten"]), vectors=np.eye(10, 24))
    for command in ("run", "compress"):
        answer = pocketvit(command, *common, other)
        assert (answer.code, answer.out, runs.exists()) == (2, "", False)
        assert "it lacks 9; it has ten, which the data lacks" in " ".join(answer.err.split())
    (tmp_path / "texts.npz").write_bytes(b"nothing")
    answer = pocketvit("export", *common, tmp_path / "texts.npz")
    assert (answer.code, answer.out, runs.exists()) == (2, "", False)
    assert "is no NPZ" in " ".join(answer.err.split())
    assert "--text-embeddings" not in pocketvit("distill", "--help").out
    assert run_settings({"model": "m", "text-embeddings": "t.npz"}).text_embeddings == "t.npz"


def test_files_answer_as_transformers_does(towers: TwoTowers, tmp_path: Path, pocketvit: Command) -> None:
    files = ("--formats", "fp32,onnx,torch", "--verify-images", "40", "--no-gpu-check", "--threads", "1")
    common = ("--model", towers.folder, "--text-embeddings", towers.texts, "--runs", tmp_path, "--name", "own")
    answer = pocketvit("export", *common, *files, "--json")
    assert answer.code == 0, answer.err
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = towers.logits(images)
    assert len(set(wanted.argmax(1).tolist())) > 1, "the answers must differ for the comparison to mean something"
    made = json.loads(answer.out)["artifacts"]
    assert len(made) == 3
    for own in made:
        artifact = read_artifact(tmp_path / "own/artifacts" / own["file"])
        assert (artifact.class_names, artifact.output_kind) == (TURNED, "classes")
        assert artifact.parity.top1 is not None
        assert artifact.parity.top1_agreement == 1.0
        got = torch.from_numpy(
            load(tmp_path / "own/artifacts" / own["file"]).logits(images.permute(0, 2, 3, 1).numpy())
        )
        assert torch.equal(got.argsort(1), wanted.argsort(1))
        assert float((got.softmax(1) - wanted.softmax(1)).abs().max()) < 1e-5


@pytest.mark.slow
def test_a_run_without_labels_cuts_the_tower_and_keeps_the_texts(
    towers: TwoTowers, tmp_path: Path, pocketvit: Command
) -> None:
    settings, root = settings_of(towers, labels=False, kinds=("fp32", "int8", "onnx")), tmp_path / "own"
    bench = pipeline.BenchSettings(
        replace(pipeline.BenchSettings().sampling, seconds=0.05), throughput_s=0.0, energy=False, times_s=0.0
    )
    pipeline.run(settings, root, bench=bench)
    baseline, sliced = (read_model(root / name) for name in ("baseline", "sliced"))
    assert macs(sliced.plan) <= 0.75 * macs(baseline.plan)
    for name in ("text.weight", "text.bias"):
        assert torch.equal(sliced.state_dict()[name], baseline.state_dict()[name])
    assert read_task(root / "sliced").class_names == TURNED
    metrics = METRICS_DOCUMENT.read(root / "sliced/metrics.json")
    assert (metrics.top1, metrics.top1_reason) == (None, "the run reads no labels")
    assert metrics.test_whole is not None
    assert metrics.test_whole.agreement is not None
    rows = {row.name: row for row in summarise(root).rows}
    assert rows["own.fp32.tflite"].agreement == 1.0
    assert rows["own.int8.tflite"].top1 is None
    file = root / "artifacts/own.int8.tflite"
    assert read_artifact(file).parity.sqnr_db is not None
    answer = pocketvit("verify", file)
    assert answer.code == 0, answer.err
    job = prepared(towers, labels=False)
    for index in job.data.test[:3]:
        job.data.images[int(index)].save(tmp_path / f"{index}.png")
    answer = pocketvit("predict", file, *(tmp_path.glob("*.png")), "--json")
    assert answer.code == 0, answer.err
    found = [(own["class"], own["index"]) for own in json.loads(answer.out)["predictions"]]
    assert len(found) == 3
    assert all(TURNED[index] == name for name, index in found)
    changed = dict(np.load(towers.texts))
    np.savez(tmp_path / "other.npz", **{**changed, "vectors": changed["vectors"][::-1]})
    kept = towers.texts.read_bytes()
    try:
        towers.texts.write_bytes((tmp_path / "other.npz").read_bytes())
        with pytest.raises(RunFolderError, match=r"have changed since the run .* was begun"):
            pipeline.run(settings, root, resume=True, bench=bench)
    finally:
        towers.texts.write_bytes(kept)


@pytest.mark.slow
def test_a_labelled_run_measures_top1_and_can_be_a_student(clip: TwoTowers, tmp_path: Path) -> None:
    pipeline.compress(settings_of(clip), tmp_path / "own")
    baseline = METRICS_DOCUMENT.read(tmp_path / "own/baseline/metrics.json")
    job, model = prepared(clip), read_model(tmp_path / "own/baseline")
    assert baseline.epochs == ()
    images = torch.cat([images for images, _ in plain_batches(job.data, job.data.test, job.task.preprocessing)])
    with torch.no_grad():
        answers = model(images).argmax(1).numpy()
    assert baseline.top1 == pytest.approx((answers == job.data.labels[job.data.test]).mean())
    taught = replace(RunSettings(threads=1), fine_tune=TrainSettings(epochs=1, batch_size=16))
    lesson = DistillSettings(student=str(tmp_path / "own"), teacher=str(tmp_path / "own"), alone=False)
    distill(taught, lesson, tmp_path / "taught")
    own, before = (read_model(tmp_path / name / "sliced").state_dict() for name in ("taught", "own"))
    assert torch.equal(own["text.weight"], before["text.weight"])
    assert read_task(tmp_path / "taught/sliced").class_names == TURNED
