"""A run goes on with the pictures it was begun with, wherever they lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from compress.data.data_list import list_data
from compress.data.load import load_data
from compress.model.metadata import write_names
from compress.model.timm_vit import to_timm
from device_bench.report.summary import summarise
from pocketvit.pipeline.benching import packed
from pocketvit.pipeline.checks import keep_notes
from pocketvit.pipeline.job import prepare
from pocketvit.pipeline.runfolder import RunFolder, claim, read_settings
from pocketvit.settings import RunSettings
from runtime import DataError, RunFolderError
from tests.pocketvit.conftest import TINY, Command

TEXT_ORDER = ("1", "10", "11", "12", "2", "3", "4", "5", "6", "7", "8", "9")
NATURAL = tuple(map(str, range(1, 13)))


def make_photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 12) -> Path:
    """Makes pictures of noise with a white block whose place says the class."""
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        row, column = divmod(NATURAL.index(name) if name in NATURAL else classes.index(name), 4)
        for i in range(count):
            pixels = generator.integers(0, 60, (32, 32)).astype(np.uint8)
            pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def settings_of(folder: Path) -> RunSettings:
    return RunSettings(data=f"imagefolder:{folder}")


def begin(root: Path, folder: Path, resume: bool = False, force: bool = False) -> RunSettings:
    settings = settings_of(folder)
    listed = list_data(load_data(settings.data))
    with claim(root, settings, resume=resume, force=force, data=listed) as run:
        return read_settings(run)


def test_a_picture_that_was_added_stops_a_run_that_is_resumed(tmp_path: Path) -> None:
    photos, root = make_photos(tmp_path / "photos"), tmp_path / "run"
    begin(root, photos)
    before = (root / "data.json").read_bytes()
    begin(root, photos, resume=True)
    Image.new("L", (32, 32)).save(photos / "cat" / "new.png")
    with pytest.raises(RunFolderError) as caught:
        begin(root, photos, resume=True)
    text = str(caught.value)
    assert "has changed since it was begun. Expected the 24 images listed in data.json" in text
    assert "1 file was added (cat/new.png)" in text
    assert "--force" in text
    assert (root / "data.json").read_bytes() == before
    begin(root, photos, force=True)
    assert (root / "data.json").read_bytes() != before


def test_a_run_whose_data_moved_goes_on_there(tmp_path: Path) -> None:
    photos, root = make_photos(tmp_path / "photos"), tmp_path / "run"
    begin(root, photos)
    moved = Path(shutil.move(photos, tmp_path / "elsewhere"))
    assert begin(root, moved, resume=True).data == f"imagefolder:{moved}"
    other = make_photos(tmp_path / "other", ("cat", "horse"))
    with pytest.raises(RunFolderError) as caught:
        begin(root, other, resume=True)
    assert (
        f"imagefolder:{photos} is now imagefolder:{other}; the classes dog are gone; the classes horse are new"
        in str(caught.value)
    )
    assert read_settings(RunFolder(root)).data == f"imagefolder:{moved}"


def test_other_settings_are_still_refused(tmp_path: Path) -> None:
    photos, root = make_photos(tmp_path / "photos"), tmp_path / "run"
    begin(root, photos)
    listed = list_data(load_data(f"imagefolder:{photos}"))
    for changed in (
        RunSettings(data=f"imagefolder:{photos}", budget="macs=0.5"),
        RunSettings(f"imagefolder:{photos}", mirror=False),
    ):
        with (
            pytest.raises(RunFolderError, match="other settings"),
            claim(root, changed, resume=True, force=False, data=listed),
        ):
            pass


def test_an_older_run_without_a_list_is_given_one(tmp_path: Path) -> None:
    photos, root = make_photos(tmp_path / "photos"), tmp_path / "run"
    begin(root, photos)
    (root / "data.json").unlink()
    with pytest.raises(RunFolderError, match="other settings"):
        begin(root, make_photos(tmp_path / "second"), resume=True)
    begin(root, photos, resume=True)
    assert (root / "data.json").is_file()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x" * 201, "too long for the names of its files"),
        ("é" * 101, "too long"),
        ("x" * 300, "Expected at most 200 bytes. Got 300"),
    ],
)
def test_a_name_too_long_for_files_is_refused_before_any_work(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(RunFolderError, match=text), claim(tmp_path / name, RunSettings(), resume=False, force=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    with (
        pytest.raises(RunFolderError, match="is not UTF-8"),
        claim(tmp_path / name, RunSettings(), resume=False, force=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_warnings_stand_in_the_notes_of_the_report_once(tmp_path: Path) -> None:
    photos, root = make_photos(tmp_path / "photos", ("left", "right")), tmp_path / "run"
    data = load_data(f"imagefolder:{photos}")
    with claim(root, settings_of(photos), resume=False, force=False) as run:
        keep_notes(run, data)
        keep_notes(run, data)
    with (root / "log.jsonl").open("a") as log:
        log.write('{"event": "warn')
    (root / "baseline").mkdir()
    (note,) = summarise(root).notes
    assert "left and right may be mirror images" in note
    events = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()[:-1]]
    assert "1 folder, split by seed, 2 classes, 24 pictures (gray)." in [own.get("text") for own in events]


@pytest.mark.parametrize("name", ["photos", "digits"])
def test_the_images_that_files_answer_have_every_class_its_share(tmp_path: Path, name: str) -> None:
    told = f"imagefolder:{make_photos(tmp_path / 'photos', NATURAL, 20)}" if name == "photos" else name
    job = prepare(RunSettings(data=told))
    few = packed(job.data, job.task, 30)
    assert len(few.labels) == 30
    counts = np.bincount(few.labels, minlength=job.data.num_classes)
    assert counts.min() >= 2
    assert counts.max() <= 4
    assert np.array_equal(few.labels, packed(job.data, job.task, 30).labels)
    assert len(packed(job.data, job.task, 10**6).labels) == len(job.data.test)


def test_the_settings_reach_the_job(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", NATURAL, 6)
    told = RunSettings(data=f"imagefolder:{photos}", class_order="natural", mirror=False)
    job = prepare(told)
    assert job.task.class_names == job.data.class_names == NATURAL
    assert (job.augmentation.mirror, job.fine_tuned) == (0.0, False)
    assert prepare(RunSettings(data=f"imagefolder:{photos}")).task.class_names == TEXT_ORDER


@pytest.mark.slow
def test_a_checkpoint_of_another_order_is_refused_and_one_of_ours_orders_the_data(
    tmp_path: Path, pocketvit: Command
) -> None:
    photos = make_photos(tmp_path / "photos", NATURAL, 15)
    runs = tmp_path / "runs"
    common = ("compress", *TINY, "--data", f"imagefolder:{photos}", "--runs", runs, "--importance-images", 2)
    made = pocketvit(
        *common,
        "--name",
        "first",
        "--class-order",
        "natural",
        "--no-mirror",
        "--epochs",
        25,
        "--batch-size",
        16,
        "--lr",
        2e-3,
    )
    assert made.code == 0, made.err
    assert "1 folder, split by seed, 12 classes, 180 pictures (gray)" in made.err
    baseline = runs / "first" / "baseline"
    weights = {name: value.contiguous() for name, value in _timm_weights(baseline).items()}
    again = ("--epochs", 0, "--recovery-epochs", 0, "--in-chans", 1, "--no-mirror")
    # a file of ours says the order of its classes
    save_file(weights, runs / "ours.safetensors", metadata=write_names(NATURAL))
    answer = pocketvit(*common, *again, "--name", "second", "--checkpoint", runs / "ours.safetensors")
    assert answer.code == 0, answer.err
    assert json.loads((runs / "second" / "baseline" / "task.json").read_text())["class_names"] == list(NATURAL)
    assert "check checkpoint: 128/128  top-1" in answer.err
    # the same weights of another's making
    foreign = runs / "foreign.safetensors"
    save_file(weights, foreign)
    answer = pocketvit(*common, *again, "--name", "third", "--checkpoint", foreign)
    assert answer.code == 2
    assert "knows the classes in natural order" in " ".join(answer.err.split())
    assert "Give --class-order natural" in " ".join(answer.err.split())
    assert not (runs / "third").exists()
    # pictures that were added since
    Image.new("L", (32, 32)).save(photos / "1" / "new.png")
    answer = pocketvit("export", runs / "second", "--formats", "fp32")
    assert answer.code == 2
    assert "1 file was added (1/new.png)" in " ".join(answer.err.split())
    (photos / "1" / "new.png").unlink()
    shutil.move(photos, tmp_path / "moved")
    answer = pocketvit("export", runs / "second", "--formats", "fp32")
    assert answer.code == 2
    assert "does not exist" in " ".join(answer.err.split())
    answer = pocketvit(
        "export",
        runs / "second",
        "--formats",
        "fp32",
        "--data",
        f"imagefolder:{tmp_path / 'moved'}",
        "--min-agreement",
        0,
    )
    assert answer.code == 0, answer.err


def _timm_weights(baseline: Path) -> dict[str, torch.Tensor]:
    shape = {"img_size": 32, "patch_size": 16, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=12, **shape)
    return to_timm(load_file(baseline / "model.safetensors"), model.state_dict())


def test_the_checkpoint_of_other_classes_is_refused_with_the_difference(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", ("cat", "dog"), 6)
    shape = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    told = RunSettings(
        data=f"imagefolder:{photos}",
        model="vit_tiny_patch16_224",
        model_args=shape,
        checkpoint=str(tmp_path / "a.safetensors"),
    )
    weights = timm.create_model("vit_tiny_patch16_224", num_classes=2, **shape).state_dict()
    save_file(weights, tmp_path / "a.safetensors", metadata={"pocketvit.class_names": '["cat", "horse"]'})
    with pytest.raises(DataError, match=r"it lacks dog; it has horse.*--reset-head"):
        prepare(told)
    # a model that is exported as it is keeps its own classes
    job = prepare(told, own_classes=True)
    assert (job.task.class_names, job.fine_tuned) == (("cat", "horse"), False)
    save_file(weights, tmp_path / "a.safetensors", metadata={"pocketvit.class_names": '["dog", "cat"]'})
    for exported in (False, True):
        job = prepare(told, own_classes=exported)
        assert job.task.class_names == job.data.class_names == ("dog", "cat")
        assert (job.fine_tuned, job.knows_classes) == (True, True)


def test_a_run_that_was_killed_in_its_first_write_begins_anew(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / ".run.json.0123abcd.tmp").write_text('{"schema": "pocketvit.r')
    with claim(root, RunSettings(), resume=True, force=False) as run:
        assert run.settings.is_file()
    assert not list(root.glob(".*.tmp"))
    other = tmp_path / "other"
    other.mkdir()
    (other / ".mine.tmp").write_text("somebody's file")
    with (
        pytest.raises(RunFolderError, match="is no run folder"),
        claim(other, RunSettings(), resume=True, force=True),
    ):
        pass
    assert (other / ".mine.tmp").is_file()
