from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.load import load_data
from runtime import load
from tests.pocketvit.conftest import Command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as files, each in a folder named for its class."""
    root, data = tmp_path_factory.mktemp("photos"), load_data("digits")
    for index in data.test[:6]:
        folder = root / data.class_names[data.labels[index]]
        folder.mkdir(exist_ok=True)
        data.images[int(index)].save(folder / f"{index}.png")
    return root


@pytest.mark.parametrize("suffix", ["onnx", "fp32.tflite", "int8.tflite", "int8-full.tflite"])
def test_predictions_are_the_sessions_and_losses_known_from_folders(
    tiny_run: Path, photos: Path, pocketvit: Command, suffix: str
) -> None:
    file = tiny_run / "artifacts" / f"tiny.{suffix}"
    answer = pocketvit("predict", file, photos, "--json")
    assert answer.code == 0, answer.err
    session = load(file)
    for row in json.loads(answer.out)["predictions"]:
        (prediction,) = session.predict([row["image"]])
        assert (row["class"], row["index"]) == (prediction.name, prediction.index)
        assert row["label"] == Path(row["image"]).parent.name
        probabilities = np.exp(np.array(row["logits"]) - max(row["logits"]))
        probabilities /= probabilities.sum()
        assert row["confidence"] == pytest.approx(probabilities.max())
        assert row["loss"] == pytest.approx(-np.log(probabilities[int(row["label"])]), rel=1e-4, abs=1e-6)


def test_the_plot_is_a_picture(tiny_run: Path, photos: Path, pocketvit: Command, tmp_path: Path) -> None:
    file = tiny_run / "artifacts" / "tiny.fp32.tflite"
    answer = pocketvit("predict", file, photos, "--plot", tmp_path / "seen.png")
    assert answer.code == 0, answer.err
    with Image.open(tmp_path / "seen.png") as picture:
        assert min(picture.size) > 200
    assert "confidence" in answer.out


def test_a_label_holds_for_all_and_unknown_folders_have_none(
    tiny_run: Path, pocketvit: Command, tmp_path: Path
) -> None:
    file = tiny_run / "artifacts" / "tiny.fp32.tflite"
    load_data("digits").images[0].save(tmp_path / "a.png")
    rows = json.loads(pocketvit("predict", file, tmp_path / "a.png", "--json").out)["predictions"]
    assert rows[0]["label"] is None
    assert rows[0]["loss"] is None
    rows = json.loads(pocketvit("predict", file, tmp_path / "a.png", "--label", "3", "--json").out)["predictions"]
    assert rows[0]["label"] == "3"


def test_bad_requests(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    file = tiny_run / "artifacts" / "tiny.fp32.tflite"
    good = tmp_path / "good.png"
    load_data("digits").images[0].save(good)
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:40])
    (tmp_path / "empty").mkdir()
    for arguments, text in [
        ((file, tmp_path / "none.png"), "does not exist"),
        ((file, tmp_path / "bad.png"), "bad.png"),
        ((file, tmp_path / "empty"), "holds no pictures"),
        ((file, good, "--label", "eleven"), "names no class"),
        ((file, good, "--plot", tmp_path / "seen.txt"), "no kind of picture"),
        ((file, good, "--threads", "0"), "at least 1"),
    ]:
        answer = pocketvit("predict", *arguments)
        assert answer.code == 2
        assert text in " ".join(answer.err.split())
        assert "Traceback" not in answer.err
    assert not (tmp_path / "seen.txt").exists()


def test_pictures_that_cannot_be_read_are_left_out_on_request(
    tiny_run: Path, pocketvit: Command, photos: Path, tmp_path: Path
) -> None:
    file, folder = tiny_run / "artifacts" / "tiny.fp32.tflite", tmp_path / "mixed"
    shutil.copytree(photos, folder)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(next(photos.rglob("*.png")), folder / ".ipynb_checkpoints" / "copy.png")
    answer = pocketvit("predict", file, folder)
    assert (answer.code, "broken.png" in answer.err, "--skip-bad" in answer.err) == (2, True, True), answer.err
    answer = pocketvit("predict", file, folder, "--skip-bad", "--json")
    assert (answer.code, "Left out" in answer.err, "broken.png" in answer.err) == (0, True, True), answer.err
    body = json.loads(answer.out)
    assert len(body["predictions"]) == len(list(photos.rglob("*.png")))
    assert [Path(row["image"]).name for row in body["skipped"]] == ["broken.png"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"no picture")
    answer = pocketvit("predict", file, tmp_path / "bad", "--skip-bad")
    assert (answer.code, "None of the pictures can be read" in answer.err) == (2, True), answer.err
