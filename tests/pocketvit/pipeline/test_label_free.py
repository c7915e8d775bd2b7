"""A run without labels: what it needs, what it refuses, and what its files and tables leave out."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from compress.data import SOURCES
from compress.data.base import Source
from compress.data.dataset import UNLABELLED
from compress.data.named_data import digits
from compress.model.folder import read_model, read_task
from compress.model.metadata import write_names
from device_bench.report.page import write_report
from device_bench.report.summary import summarise
from pocketvit.options import run_settings
from pocketvit.pipeline import run as pipeline
from pocketvit.pipeline.job import PreparedRun, prepare
from pocketvit.pipeline.run_data import data_of_run
from pocketvit.pipeline.runfolder import RunFolder, read_settings
from pocketvit.settings import RunSettings
from pocketvit.study.answers import answer, read_answers
from pocketvit.train_settings import TrainSettings
from runtime import METRICS_DOCUMENT, DataError, ModelError, PlanError, PocketVitWarning, encode, macs, read_artifact
from tests.pocketvit import preloaded
from tests.pocketvit.conftest import Command, environment

SHAPE: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
MODEL = "vit_tiny_patch16_224"
NAMES = tuple(f"kind {i}" for i in range(10))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that names its classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(MODEL, img_size=32, patch_size=16, in_chans=1, num_classes=10, **SHAPE)
        torch.nn.init.normal_(model.head.weight)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(dict(model.state_dict()), path, write_names(NAMES))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures in folders whose names mean nothing."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for n in range(60):
        (folder / f"day{n % 3}").mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (5, 5), np.uint8))
        coarse.resize((40, 40)).save(folder / f"day{n % 3}" / f"{n}.png")
    return folder


def settings_of(weights: Path | None, **changes: Any) -> RunSettings:
    given: dict[str, Any] = {
        "labels": False,
        "model": MODEL,
        "img_size": 32,
        "patch_size": 16,
        "in_chans": 1,
        "model_args": SHAPE,
        "checkpoint": str(weights) if weights else None,
        "recover": TrainSettings(epochs=2, batch_size=16, lr=1e-3),
        "importance_images": 2,
        "train_limit": 200,
        "calibration_images": 4,
        "verify_images": 30,
        "min_agreement": 0.0,
        "made_for": "pi5",
        "threads": 1,
    }
    return RunSettings(**given | changes)


def refused(kind: type[Exception], weights: Path | None, **changes: Any) -> str:
    with pytest.raises(kind) as caught:
        prepare(settings_of(weights, **changes))
    return str(caught.value)


def test_the_weights_are_taken_as_they_are_and_name_the_classes(weights: Path) -> None:
    job = prepare(settings_of(weights))
    assert (job.labelled, job.fine_tuned, job.fine_tune.epochs) == (False, False, 0)
    assert job.task.class_names == job.data.class_names == NAMES
    assert job.task.trained
    assert set(job.data.labels) == {UNLABELLED}
    assert job.lesson is not None
    assert (job.lesson.methods, job.lesson.weight) == (("response", "tokens"), 1.0)


def test_without_names_the_outputs_are_numbered_or_named_by_a_class_map(tmp_path: Path, weights: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    from safetensors.torch import load_file

    save_file(load_file(weights), bare)
    assert prepare(settings_of(bare)).task.class_names == tuple(f"class {i}" for i in range(10))
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join("abcdefghij"))
    assert prepare(settings_of(bare, class_map=str(classes))).data.class_names == tuple("abcdefghij")
    classes.write_text("a\nb")
    text = refused(DataError, bare, class_map=str(classes))
    assert "does not name the outputs of the model. Expected 10. Got 2." in text


def test_weights_that_do_not_answer_yet_are_refused(tmp_path: Path, weights: Path) -> None:
    assert "has fresh weights, and without labels nothing trains them" in refused(ModelError, None)
    assert "--checkpoint FILE" in refused(ModelError, None)
    assert "which needs labels. Expected no --reset-head." in refused(PlanError, weights, reset_head=True)
    with torch.random.fork_rng():
        headless = timm.create_model(MODEL, img_size=32, patch_size=16, in_chans=1, num_classes=0, **SHAPE)
    torch.save(headless.state_dict(), tmp_path / "headless.pth")
    assert "has no classifier, and without labels nothing trains one" in refused(ModelError, tmp_path / "headless.pth")
    published = {"model": "vit_small_patch14_dinov2", "img_size": 28, "patch_size": 14, "model_args": {}}
    assert "The published weights of 'vit_small_patch14_dinov2' have no classifier" in refused(
        ModelError, None, pretrained=True, **published
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"max_drop": 1.0}, "Labels alone can tell how much top-1 an integer file loses. Expected no --max-drop."),
        ({"fine_tune": TrainSettings(epochs=3)}, "The first training needs labels. Expected no --epochs"),
        ({"class_order": "natural"}, "Without labels there are no classes to order"),
        ({"distill": False}, "the recovery learns from the whole model alone. Expected no --no-distill"),
        ({"distill_methods": ("self",)}, "Self-distillation learns from labels, too"),
    ],
)
def test_what_needs_labels_is_refused(weights: Path, changes: dict[str, Any], text: str) -> None:
    assert text in refused(PlanError, weights, **changes)


def test_the_options_make_the_settings(weights: Path, pictures: Path) -> None:
    plain = settings_of(weights, max_drop=1.0, labels=True)
    assert plain.uses_labels
    given = run_settings({"labels": False, "recovery-minutes": "2.5"})
    assert (given.labels, given.uses_labels) == (False, False)
    assert (given.recover.minutes, given.fine_tune.minutes) == (2.5, None)
    with pytest.raises(PlanError, match=r"--recovery-minutes must be positive\. Got 0\.0"):
        run_settings({"recovery-minutes": "0"})
    assert not run_settings({"data": f"unlabelled:{pictures}"}).uses_labels
    assert prepare(settings_of(weights, recover=TrainSettings(minutes=2.5))).recover.minutes == 2.5
    assert "Labels alone" in refused(PlanError, weights, labels=True, data=f"unlabelled:{pictures}", max_drop=1.0)
    assert prepare(settings_of(weights, distill=False, recover=TrainSettings(epochs=0))).lesson is None
    chosen = prepare(settings_of(weights, distill_methods=("feature",))).lesson
    assert chosen is not None
    assert chosen.methods == ("feature",)


def test_resampled_weights_are_taken_as_they_are(weights: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        job = prepare(settings_of(weights, img_size=64))
    assert "taken as they are, since nothing trains them without labels" in job.notes[-1]
    assert job.fine_tune.epochs == 0


def test_a_student_is_not_taught_on_data_without_labels(
    pocketvit: Command, pictures: Path, tmp_path: Path, weights: Path
) -> None:
    answer = pocketvit("distill", "--data", f"unlabelled:{pictures}", "--method", "self", "--runs", tmp_path)
    assert answer.code == 2
    assert "learn from labels, too, and this data has none" in answer.err
    assert "--unlabelled DIR" in answer.err
    assert "--no-labels" in pocketvit("distill", "--no-labels", "--method", "self").err


@pytest.fixture(scope="module")
def free_run(tmp_path_factory: pytest.TempPathFactory, weights: Path, pictures: Path) -> Path:
    """A finished run on pictures without labels."""
    root = tmp_path_factory.mktemp("runs") / "free"
    settings = settings_of(weights, data=f"unlabelled:{pictures}", kinds=("fp32", "int8", "onnx"))
    bench = pipeline.BenchSettings(
        replace(pipeline.BenchSettings().sampling, seconds=0.05), throughput_s=0.0, energy=False, times_s=0.0
    )
    pipeline.run(settings, root, bench=bench)
    return root


@pytest.mark.slow
def test_a_run_without_labels_leaves_out_what_they_would_give(free_run: Path) -> None:
    baseline, sliced = (METRICS_DOCUMENT.read(free_run / name / "metrics.json") for name in ("baseline", "sliced"))
    assert (baseline.epochs, baseline.test_whole) == ((), None)
    for own in (baseline, sliced):
        assert (own.top1, own.held_out_top1, own.test_images) == (None, None, 0)
        assert own.top1_reason == "the run reads no labels"
    assert sliced.macs <= 0.75 * baseline.macs
    assert [own.held_out_top1 for own in sliced.epochs] == [None, None]
    assert all(own.held_out_divergence is not None for own in sliced.epochs)
    for part in (sliced.test_whole, sliced.held_out_whole):
        assert part is not None
        assert 0 < part.agreement <= 1
        assert part.cosine is not None
        assert 0.5 < part.cosine <= 1
    assert read_task(free_run / "sliced").class_names == NAMES
    data = json.loads((free_run / "data.json").read_text())
    assert (set(data["labels"]), data["class_names"]) == ({UNLABELLED}, list(NAMES))
    for file in sorted((free_run / "artifacts").glob("free.*.tflite")):
        artifact = read_artifact(file)
        assert (artifact.parity.top1, artifact.parity.reference_top1) == (None, None)
        assert artifact.parity.top1_reason == "the images have no labels"
        assert artifact.parity.top1_agreement is not None
        assert all(trial.top1_drop is None for trial in artifact.trials)
        assert artifact.class_names == NAMES
    bench = json.loads((free_run / "bench" / "cpu.json").read_text())
    assert all(file["accuracy"] is None for file in bench["files"])
    assert not (free_run / "bench" / "test-images.npz").exists()


@pytest.mark.slow
def test_tables_and_report_show_agreement_and_no_top1(free_run: Path, pocketvit: Command) -> None:
    answer = pocketvit("report", free_run, "--json")
    assert answer.code == 0, answer.err
    rows = {row["name"]: row for row in json.loads(answer.out)["rows"]}
    assert all((row["top1"], row["top1_images"]) == (None, None) for row in rows.values())
    whole = METRICS_DOCUMENT.read(free_run / "sliced" / "metrics.json").test_whole
    assert whole is not None
    assert (rows["sliced"]["whole_agreement"], rows["sliced"]["whole_cosine"]) == (whole.agreement, whole.cosine)
    assert rows["baseline"]["whole_agreement"] is None
    shown = " ".join(pocketvit("report", free_run).out.split())
    assert "as whole" in shown
    assert "cosine" in shown
    assert "top-1" not in shown
    page = (free_run / "report.html").read_text()
    for text in ("Agrees with the whole model", "Cosine with the whole model", "Held-out divergence"):
        assert text in page
    assert "There is no top-1: the run reads no labels." in page
    assert "Held-out top-1" not in page
    assert summarise(free_run).notes.count("There is no top-1: the run reads no labels.") == 1


@pytest.mark.slow
def test_the_commands_that_read_files_take_those_of_such_a_run(
    free_run: Path, pictures: Path, pocketvit: Command
) -> None:
    file = free_run / "artifacts" / "free.int8.tflite"
    answer = pocketvit("predict", file, pictures / "day0", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["predictions"]
    assert {own["label"] for own in found} == {None}
    assert {own["class"] for own in found} <= set(NAMES)
    assert pocketvit("verify", free_run / "artifacts" / "free.onnx").code == 0
    measured = free_run.parent / "bench.json"
    answer = pocketvit("bench", file, "--samples", 30, "--throughput", 0, "--json", measured)
    assert answer.code == 0, answer.err
    answer = pocketvit("compare", measured, measured)
    assert answer.code == 0, answer.err
    again = pocketvit("export", free_run, "--formats", "onnx", "--max-drop", 1)
    assert again.code == 2
    assert "Labels alone can tell" in again.err


@pytest.mark.slow
def test_such_a_run_is_exported_again_with_its_pictures(free_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "free"
    shutil.copytree(free_run, root)
    data = data_of_run(RunFolder(root), read_settings(RunFolder(root)), read_task(root / "sliced"))
    assert data.class_names == NAMES
    shutil.rmtree(root / "artifacts")
    made = pipeline.export_run(root, RunSettings(kinds=("onnx",), verify_images=8, min_agreement=0.0))
    assert [artifact.parity.top1 for artifact in made] == [None, None]


@pytest.mark.slow
def test_a_study_takes_such_a_run_and_has_no_accuracy_of_it(free_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "free"
    shutil.copytree(free_run, root)
    answer(root)
    found = read_answers(root)
    assert (found.labels, found.class_names) == ((), NAMES)
    assert [(own.kind, own.top1, own.accuracy) for own in found.files] == [
        (kind, None, None) for kind in ("fp32", "int8", "onnx")
    ]


@pytest.mark.slow
def test_pictures_that_moved_are_named_anew(free_run: Path, pictures: Path, tmp_path: Path, pocketvit: Command) -> None:
    shutil.copytree(free_run, tmp_path / "free")
    shutil.copytree(pictures, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "free" / "artifacts")
    words = ("export", tmp_path / "free", "--formats", "onnx", "--verify-images", 8)
    moved = pocketvit(*words, "--data", f"unlabelled:{tmp_path / 'elsewhere'}")
    assert moved.code == 0, moved.err
    (tmp_path / "elsewhere" / "day0" / "0.png").unlink()
    assert "1 file is gone" in pocketvit(*words, "--data", f"unlabelled:{tmp_path / 'elsewhere'}").err


def test_a_model_is_exported_as_it_is_without_labels(tmp_path: Path, weights: Path) -> None:
    settings = settings_of(weights, kinds=("fp32", "int8"), labels=False)
    made = pipeline.export(settings, tmp_path / "as-is")
    assert [(own.parity.top1, own.parity.top1_reason) for own in made] == [(None, "the images have no labels")] * 2
    assert made[1].trials[0].top1_drop is None
    assert made[1].trials[0].top1_agreement > 0


@pytest.mark.slow
@pytest.mark.parametrize("search", ["milp", "greedy", "dfbnb", "tas", "uniform", "unstructured"])
def test_every_search_goes_without_labels(tmp_path: Path, weights: Path, search: str) -> None:
    budget = {} if search == "unstructured" else {"budget": "macs=0.8"}
    short = {"recover": TrainSettings(epochs=1), "reconstruct": False}
    settings = settings_of(weights, search=search, **short, **(budget or {"budget": ""}))
    pipeline.compress(settings, tmp_path / "run")
    whole, sliced = (read_model(tmp_path / "run" / name).plan for name in ("baseline", "sliced"))
    assert budget == {} or macs(sliced) <= 0.8 * macs(whole)
    found = METRICS_DOCUMENT.read(tmp_path / "run" / "sliced" / "metrics.json")
    assert found.top1 is None
    assert found.test_whole is not None
    page = write_report(tmp_path / "run")[0].read_text()
    assert ("Agreement, Search Set" in page) == (search in ("greedy", "dfbnb"))
    assert "Top-1" not in page.replace("Top-1 of the files is that at export", "")


@pytest.mark.slow
def test_no_label_is_read_from_start_to_end(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_labels(*_: Any) -> Any:
        raise AssertionError("labels were read")

    def pictures_alone(*arguments: Any) -> Any:
        return digits(*arguments).without_labels

    monkeypatch.setitem(SOURCES._things, "digits", Source("digits", no_labels, open_unlabelled=pictures_alone))
    with pytest.raises(AssertionError, match="labels were read"):
        prepare(settings_of(weights, labels=True))
    pipeline.compress(settings_of(weights, recover=TrainSettings(epochs=1)), tmp_path / "run")
    pipeline.export_run(tmp_path / "run", RunSettings(kinds=("int8",), verify_images=8, min_agreement=0.0))


@pytest.mark.slow
def test_a_labelled_run_has_agreement_and_cosine_too(tiny_run: Path) -> None:
    found = METRICS_DOCUMENT.read(tiny_run / "sliced" / "metrics.json")
    assert found.top1 is not None
    assert found.test_whole is not None
    assert found.held_out_whole is not None
    assert found.test_whole.images == found.test_images
    assert found.test_whole.agreement > 0.5
    row = summarise(tiny_run).row("sliced")
    assert row is not None
    assert row.whole_agreement == found.test_whole.agreement


def free_words(weights: Path, pictures: Path, runs: Path, *more: object) -> list[object]:
    shape = [word for key, value in SHAPE.items() for word in ("--model-arg", f"{key}={value}")]
    return [
        *("compress", "--data", f"unlabelled:{pictures}", "--model", MODEL, "--img-size", 32, "--patch-size", 16),
        *(*shape, "--in-chans", 1, "--checkpoint", weights, "--importance-images", 2, "--threads", 1),
        *("--name", "free", "--runs", runs, *more),
    ]


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path, weights: Path, pictures: Path) -> None:
    def words(runs: Path) -> list[object]:
        return free_words(weights, pictures, runs, "--recovery-epochs", 40, "--patience", 40, "--resume")

    undisturbed = preloaded.run(*words(tmp_path / "a"), env=environment())
    assert undisturbed.returncode == 0, undisturbed.stderr
    kills = 0
    for wait in (0.0, 0.3, 0.8):
        process = preloaded.start(*words(tmp_path / "b"), env=environment())
        process.stderr.readline()
        time.sleep(wait)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    done = preloaded.run(*words(tmp_path / "b"), env=environment())
    assert done.returncode == 0, done.stderr
    assert kills
    for name in ("baseline/metrics.json", "sliced/metrics.json", "sliced/model.safetensors", "search/journal.jsonl"):
        assert (tmp_path / "a" / "free" / name).read_bytes() == (tmp_path / "b" / "free" / name).read_bytes(), name


def events(root: Path, kind: str) -> Iterator[dict[str, Any]]:
    for line in (root / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == kind:
            yield event


@pytest.mark.slow
def test_a_time_limit_of_the_recovery_is_in_the_log(tmp_path: Path, weights: Path) -> None:
    pipeline.compress(settings_of(weights, recover=TrainSettings(epochs=2, minutes=0.02)), tmp_path / "run")
    (limited,) = events(tmp_path / "run", "limited")
    assert limited["minutes"] == 0.02
    assert limited["steps"] >= 1
    again = replace(settings_of(weights), recover=TrainSettings(epochs=2, minutes=0.5))
    with pytest.raises(Exception, match="other settings"):
        pipeline.compress(again, tmp_path / "run", resume=True)


def test_a_run_folder_keeps_that_no_labels_are_read(weights: Path) -> None:
    assert encode(settings_of(weights))["labels"] is False
    assert encode(RunSettings())["labels"] is True
    assert isinstance(prepare(settings_of(weights)), PreparedRun)
