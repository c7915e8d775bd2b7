from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from device_bench.metrics.accuracy import TestImages, accuracy_of, read_test_images, write_test_images
from runtime import ArtifactError, DataError, Preprocessing, Session, TensorSpec

NAMES = ("dark", "light", "lighter")


def labelled(count: int = 21) -> TestImages:
    """Gray pictures: of class k, all pixels are 80 k."""
    labels = np.arange(count) % 3
    pictures = np.repeat(labels * 80, 16).reshape(count, 4, 4, 1).astype(np.uint8)
    return TestImages(pictures, labels.astype(np.int64), "grays", "test", NAMES)


class Brightness:
    """An engine that tells dark from light, and never sees what is lighter."""

    def __init__(self) -> None:
        self.batches = []

    def run(self, batch):
        self.batches.append(len(batch))
        light = batch.mean(axis=(1, 2, 3)) > 0.1
        return np.stack([~light, light, np.zeros(len(batch))], axis=1).astype(np.float32)


def session(batch: int) -> Session:
    artifact = SimpleNamespace(
        file="a.onnx",
        class_names=NAMES,
        output_kind="classes",
        app=None,
        preprocessing=Preprocessing(4, 4, 1, (0.0,), (1.0,)),
        input=TensorSpec("x", (batch, 4, 4, 1), "float32", "NHWC"),
        output=TensorSpec("y", (batch, 3), "float32", "NC"),
    )
    return Session(artifact, Brightness())


def test_images_are_read_as_they_were_written(tmp_path):
    images = labelled()
    write_test_images(tmp_path / "t.npz", images)
    read = read_test_images(tmp_path / "t.npz")
    assert np.array_equal(read.pictures, images.pictures)
    assert np.array_equal(read.labels, images.labels)
    assert (read.data, read.split, read.class_names) == ("grays", "test", NAMES)


@pytest.mark.parametrize("batch", [-1, 1, 8])
def test_answers_are_counted_by_class(batch):
    told, signs = [], []
    loaded = session(batch)
    found = accuracy_of(loaded, labelled(), progress=lambda *said: told.append(said), sign=lambda: signs.append(1))
    assert found.confusion == ((7, 0, 0), (0, 7, 0), (0, 7, 0))
    assert (found.top1, found.images, found.data, found.split) == (pytest.approx(2 / 3), 21, "grays", "test")
    assert told[-1][:3] == ("accuracy", 21, 21)
    assert len(signs) == len(told) - 1
    if batch == 8:
        assert loaded.engine.batches == [8, 8, 8]


def test_other_classes_are_refused():
    with pytest.raises(DataError, match=r"other classes.*dark, light, lighter.*cat"):
        accuracy_of(session(1), replace(labelled(), class_names=("cat", "dog", "eel")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pictures": np.zeros((21, 4, 4, 1), np.float32)}, "uint8"),
        ({"pictures": np.zeros((21, 4, 4, 2), np.uint8)}, "1 or 3"),
        ({"pictures": np.zeros((0, 4, 4, 1), np.uint8)}, "N of 1 or more"),
        ({"labels": np.zeros(20, np.int64)}, "has a label"),
        ({"labels": np.zeros(21, np.float64)}, "has a label"),
        ({"class_names": NAMES[:2]}, "no class"),
        ({"labels": np.full(21, -1)}, "no class"),
    ],
)
def test_images_that_do_not_fit_together_are_refused(changes, said):
    with pytest.raises(DataError, match=said):
        replace(labelled(), **changes)


def write_without(path, **changes):
    images = labelled()
    fields = {
        "pictures": images.pictures,
        "labels": images.labels,
        "data": np.array("d"),
        "split": np.array("s"),
        "class_names": np.array(NAMES),
    } | changes
    np.savez(path, **{key: value for key, value in fields.items() if value is not None})
    return path


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        read_test_images(tmp_path / "none.npz")
    whole = write_without(tmp_path / "whole.npz").read_bytes()
    for content in (b"", b"not an archive", whole[:300], whole[: len(whole) // 2]):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"broken\.npz is no file of labelled images"):
            read_test_images(tmp_path / "broken.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ArtifactError, match="no file of labelled images"):
        read_test_images(tmp_path / "array.npy")
    for changes in ({"labels": None}, {"data": np.array(3)}, {"split": np.array(["a", "b"])}):
        with pytest.raises(ArtifactError, match="no file of labelled images"):
            read_test_images(write_without(tmp_path / "odd.npz", **changes))


def test_pickles_are_never_opened(tmp_path):
    class_names = np.array([SimpleNamespace()], dtype=object)
    with pytest.raises(ArtifactError, match="allow_pickle=False"):
        read_test_images(write_without(tmp_path / "pickle.npz", class_names=class_names))
